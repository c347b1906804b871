"""Find stop strings in a text that arrives in pieces, holding back what may still become one.

An Aho-Corasick automaton (Aho and Corasick 1975) reads the text character by character: the cost is one step per character whatever the number of
stop strings, and the depth of its state is exactly the number of characters that may be the beginning of a match, so nothing more is held back.
The match that *ends* first wins, the longest of those that end together; this does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Automaton:
    """States are integers, 0 the root: ``step`` (transitions), ``depth``, and the longest pattern ending there."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.step: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.match: list[str] = [""]
        self._fail = [0]
        for pattern in patterns:
            self._add(pattern)
        self._link()

    def _add(self, pattern: str) -> None:
        state = 0
        for char in pattern:
            if char not in self.step[state]:
                self.step[state][char] = len(self.step)
                self.step.append({})
                self.depth.append(self.depth[state] + 1)
                self.match.append("")
                self._fail.append(0)
            state = self.step[state][char]
        self.match[state] = pattern

    def _link(self) -> None:
        """Set the failure links breadth first; a state without its own match inherits that of its suffix."""
        queue = deque(self.step[0].values())
        while queue:
            state = queue.popleft()
            for char, child in self.step[state].items():
                self._fail[child] = self.advance(self._fail[state], char)
                queue.append(child)
            self.match[state] = self.match[state] or self.match[self._fail[state]]

    def advance(self, state: int, char: str) -> int:
        """Return the state after one more character."""
        while state and char not in self.step[state]:
            state = self._fail[state]
        return self.step[state].get(char, 0)


class StopMatcher:
    """Watch one choice's text for stop strings."""

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """Watch for ``stops`` (none empty); with ``include`` the matched string stays in the text."""
        self._automaton = _Automaton(stops) if stops else None
        self._include = include
        self._state = 0
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Take more text and return what is certain to be shown. After a match (``matched`` is set) nothing more is shown."""
        if self._automaton is None:
            return text
        if self.matched is not None:
            return ""
        automaton, state = self._automaton, self._state
        for index, char in enumerate(text):
            state = automaton.advance(state, char)
            found = automaton.match[state]
            if found:
                self.matched = found
                seen = self._held + text[: index + 1]
                self._held = ""
                return seen if self._include else seen[: len(seen) - len(found)]
        self._state = state
        seen = self._held + text
        shown = len(seen) - automaton.depth[state]
        self._held = seen[shown:]
        return seen[:shown]

    def flush(self) -> str:
        """Return the text still held back, when no more follows."""
        held, self._held = self._held, ""
        return held

"""What was made of the grammars seen last, within a bound on memory. The front keeps verdicts, a worker compiled grammars."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from tritserve.protocol import Grammar

T = TypeVar("T")


class GrammarCache(Generic[T]):
    """Values by grammar; the least recently used are dropped. An entry counts as ``entry_bytes`` and ``source_factor`` times its source."""

    def __init__(self, capacity_bytes: int, *, entry_bytes: int, source_factor: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entry_bytes = entry_bytes
        self._source_factor = source_factor
        self._held_bytes = 0
        self._entries: OrderedDict[Grammar, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, grammar: Grammar) -> T | None:
        """Return what is kept for a grammar, if anything."""
        found = self._entries.get(grammar)
        if found is not None:
            self._entries.move_to_end(grammar)
        return found

    def add(self, grammar: Grammar, value: T) -> None:
        """Keep a value for a grammar that has none."""
        self._entries[grammar] = value
        self._held_bytes += self._weight(grammar)
        while self._held_bytes > self._capacity_bytes:
            dropped, _ = self._entries.popitem(last=False)
            self._held_bytes -= self._weight(dropped)

    def _weight(self, grammar: Grammar) -> int:
        return self._entry_bytes + self._source_factor * len(grammar.source)

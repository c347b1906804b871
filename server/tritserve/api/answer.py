"""From the tokens of one choice to pieces of its answer: text without halves, stop strings, and which tokens each piece covers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tritserve.text.stop import StopMatcher

if TYPE_CHECKING:
    from tritserve.api.convert import StopRules
    from tritserve.api.schemas.answers import FinishReason, StopReason
    from tritserve.protocol import TokenLogprob
    from tritserve.text.detokenizer import Detokenizer


class PlacedToken(NamedTuple):
    """A token and where its text begins in the choice's text, in characters."""

    scored: TokenLogprob
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice has new: text that is certain, tokens whose text begins in what was shown so far, and on its last piece why it ended.

    ``choice`` counts over all prompts of the request.
    """

    choice: int
    text: str
    tokens: list[PlacedToken] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_reason: StopReason = None


class ChoiceText:
    """One choice as it grows. Tokens are kept only with ``keep_tokens``; a piece never shows a token before the text it begins in, so that
    pieces joined together are what a whole answer shows."""

    def __init__(self, choice: int, detokenizer: Detokenizer, rules: StopRules, *, keep_tokens: bool) -> None:
        self.choice = choice
        self.num_tokens = 0
        self.is_finished = False
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(rules.strings, include=rules.include)
        self._rules = rules
        self._keep_tokens = keep_tokens
        self._waiting: list[PlacedToken] = []
        self._num_decoded = 0
        self._num_shown = 0

    def feed(self, scored: TokenLogprob, finish: str | None) -> Piece | None:
        """Take the next token; ``finish`` is the worker's word on its last one. Returns what can be shown, if anything."""
        self.num_tokens += 1
        if self._keep_tokens:
            self._waiting.append(PlacedToken(scored, self._num_decoded))
        is_end_token = finish == "stop"
        decoded = self._detokenizer.feed(scored.token) if not is_end_token or self._rules.include else ""
        self._num_decoded += len(decoded)
        text = self._filter(decoded)
        if self._matcher.matched is not None:
            return self._last(text, "stop", self._matcher.matched)
        if finish is None:
            return self._next(text)
        stop_reason = scored.token if is_end_token and scored.token not in self._rules.eos_ids else None
        return self.end(finish, stop_reason=stop_reason, text=text)

    def end(self, finish: str, *, stop_reason: StopReason = None, text: str = "") -> Piece:
        """End without a further token: ``length``, ``timeout``, ``no_token`` (nothing was allowed to follow) or after the last one."""
        text += self._filter(self._detokenizer.flush())
        if self._matcher.matched is not None:
            return self._last(text, "stop", self._matcher.matched)
        text += self._matcher.flush()
        if finish in ("timeout", "no_token"):
            stop_reason = finish
        return self._last(text, "stop" if finish in ("stop", "no_token") else "length", stop_reason)

    def _filter(self, decoded: str) -> str:
        return decoded if self.num_tokens <= self._rules.min_tokens else self._matcher.feed(decoded)

    def _next(self, text: str) -> Piece | None:
        if not text:
            return None
        self._num_shown += len(text)
        if not self._keep_tokens:
            return Piece(self.choice, text)
        count = sum(token.offset <= self._num_shown for token in self._waiting)
        tokens, self._waiting = self._waiting[:count], self._waiting[count:]
        return Piece(self.choice, text, tokens)

    def _last(self, text: str, finish: FinishReason, stop_reason: StopReason) -> Piece:
        self.is_finished = True
        self._num_shown += len(text)
        # A stop string swallowed the text of these: they stand at the end.
        tokens = [token._replace(offset=min(token.offset, self._num_shown)) for token in self._waiting]
        return Piece(self.choice, text, tokens, finish, stop_reason)

"""What the front must know of a live choice to give it to another worker, and whom to blame when a worker dies.

The journal holds the inputs and the tokens received; nothing of the worker's state is needed, because a token depends on
nothing else. Blame: a death counts against a choice only if it was in the running step and has got no further since its
previous death: no token of it has arrived, and what was computed of its prompt is not all behind what was computed then. A
token that kills whoever computes it is in the step of each of its deaths, however the prompt is cut; whoever got past it
starts again from nothing. After two such deaths it is a suspect, which runs alone; a third one while alone fails
it. Neighbours of a poisonous request are in its step too, but get further as soon as they run alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tritserve.protocol import Submit

DEATHS_BEFORE_SUSPECT = 2
GRAMMAR_TOKENS = range(0, 1)
"""What a choice is taken to compute while its grammar is compiled: it cannot get past that by being computed further."""
POISON_SECONDS = 60.0


class Verdict(StrEnum):
    """What a death means for a choice that was on the worker."""

    RESUME = "resume"
    RESUME_ALONE = "resume alone"
    FAIL = "fail"


@dataclass(slots=True)
class Entry:
    """One live choice. ``tokens`` were received, in order; ``num_scored`` prompt tokens have their log-probabilities."""

    submit: Submit
    tokens: list[int] = field(default_factory=list)
    num_scored: int = 0
    num_counted_deaths: int = 0
    fatal_stop: int | None = None  # what killed its worker lies before this token, if it was this one's fault
    has_token_since_death: bool = False
    is_alone: bool = False

    def record_token(self, token: int) -> None:
        """Remember a received token."""
        self.tokens.append(token)
        self.has_token_since_death = True
        self.num_counted_deaths = 0
        self.is_alone = False  # the worker lets it join the others from here on, too

    def record_death(self, tokens: range | None) -> Verdict:
        """The worker that held it died, while computing a step with these of its tokens, or (None) one without it."""
        if tokens is not None:
            stop = tokens.stop if self.fatal_stop is None else self.fatal_stop
            if self.fatal_stop is not None and (self.has_token_since_death or tokens.start >= stop):
                self.num_counted_deaths = 0
                self.fatal_stop = tokens.stop
            elif self.is_alone and self.num_counted_deaths >= DEATHS_BEFORE_SUSPECT:
                return Verdict.FAIL
            else:
                self.num_counted_deaths += 1
                self.fatal_stop = min(stop, tokens.stop)
            self.has_token_since_death = False
        if self.num_counted_deaths >= DEATHS_BEFORE_SUSPECT:
            self.is_alone = True
        return Verdict.RESUME_ALONE if self.is_alone else Verdict.RESUME

    def resubmit(self) -> Submit:
        """Return what makes another worker go on where this one ended.

        Prompt log-probabilities are asked for again unless all arrived; what comes twice is dropped by position.
        """
        scored = self.num_scored >= len(self.submit.prompt) - 1
        return msgspec.structs.replace(
            self.submit,
            forced=list(self.tokens),
            prompt_logprobs=-1 if scored and self.submit.max_tokens else self.submit.prompt_logprobs,
            alone=self.is_alone,
        )


class PoisonList:
    """Prompts that killed a worker three times, refused for a minute. Time is a parameter."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def add(self, prompt: list[int], now: float) -> None:
        """Refuse ``prompt`` from now on."""
        self._until = {digest: until for digest, until in self._until.items() if until > now}
        self._until[_digest(prompt)] = now + POISON_SECONDS

    def refuses(self, prompt: list[int], now: float) -> bool:
        """Say whether ``prompt`` is refused."""
        return bool(self._until) and self._until.get(_digest(prompt), now) > now


def _digest(prompt: list[int]) -> bytes:
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in prompt)).digest()

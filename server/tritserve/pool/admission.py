"""How much may be in the pool at once, who goes first, and when to come back. Pure: time and randomness are parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritserve.errors import Overloaded

if TYPE_CHECKING:
    from tritserve.protocol import StepStats

_DEFAULT_TOKENS_PER_SECOND = 20.0
_SMOOTHING_SECONDS = 10.0


class Throughput:
    """Tokens per second over the last seconds of *busy* time, so that an idle hour says nothing."""

    def __init__(self) -> None:
        self._rate: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Prompt and completion tokens per second of one worker; a guess before the first step."""
        return self._rate or _DEFAULT_TOKENS_PER_SECOND

    def add(self, stats: StepStats) -> None:
        """Count one step."""
        num_rows = stats.num_decode_rows + stats.num_prefill_rows
        if stats.seconds <= 0 or not num_rows:
            return
        rate = num_rows / stats.seconds
        weight = 1 - math.exp(-stats.seconds / _SMOOTHING_SECONDS)
        self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)


@dataclass(slots=True)
class Admission:
    """The two bounds: ``queue_limit`` choices, ``max_tokens_in_flight`` prompt plus max_tokens over all of them."""

    queue_limit: int
    max_tokens_in_flight: int
    num_choices: int = 0
    num_tokens: int = 0

    def admit(self, choice_tokens: list[int], tokens_per_second: float, jitter: float) -> None:
        """Take a request in, one entry of ``choice_tokens`` (prompt + max_tokens) per choice, or none of it.

        ``jitter`` in [0, 1) spreads the clients that are sent away. Raises Overloaded.
        """
        if self.num_choices + len(choice_tokens) > self.queue_limit:
            excess = self.num_tokens * len(choice_tokens) / max(1, self.num_choices)
            raise Overloaded(
                f"The server is busy: {self.num_choices} of at most {self.queue_limit} choices are waiting or running.",
                reason="queue_full",
                retry_after_seconds=_retry_after(excess, tokens_per_second, jitter),
            )
        if self.num_tokens + sum(choice_tokens) > self.max_tokens_in_flight:
            excess = self.num_tokens + sum(choice_tokens) - self.max_tokens_in_flight
            raise Overloaded(
                f"The server is busy: {self.num_tokens} of at most {self.max_tokens_in_flight} tokens are in flight "
                f"and this request may need {sum(choice_tokens)}.",
                reason="tokens_full",
                retry_after_seconds=_retry_after(excess, tokens_per_second, jitter),
            )
        self.num_choices += len(choice_tokens)
        self.num_tokens += sum(choice_tokens)

    def release(self, tokens: int) -> None:
        """Give one choice's share back."""
        self.num_choices -= 1
        self.num_tokens -= tokens


class FairClock:
    """Arrival numbers that give every key the same share of tokens while several wait.

    Start-time fair queueing (Goyal et al. 1996): a request starts, in virtual time, when its key's previous one ends, but not
    before now; a key that asks for much gets ahead of itself and so behind the others. With one key it is arrival order.
    """

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}

    def stamp(self, key: str, tokens: int) -> int:
        """Return the virtual start of a request of ``tokens``."""
        start = max(self._now, self._ends.get(key, 0))
        self._ends[key] = start + max(1, tokens)
        return start

    def advance(self, start: int) -> None:
        """A request with this stamp entered a step: nobody new starts before it."""
        if start > self._now:
            self._now = start
            self._ends = {key: end for key, end in self._ends.items() if end > start}


def _retry_after(excess_tokens: float, tokens_per_second: float, jitter: float) -> float:
    seconds = excess_tokens / max(tokens_per_second, 1e-3)
    return max(1.0, seconds) * (1.0 + 0.5 * jitter)

"""When a dead worker is started again, and when a living one counts as hung. Pure: time is a parameter, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from math import inf

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience with workers. ``step_seconds`` 0: derived from the self-test, for slow kernels take their time."""

    start_seconds: float = 300.0
    step_seconds: float = 0.0
    ping_interval_seconds: float = 5.0
    pong_seconds: float = 30.0
    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 10.0
    restarts_per_minute: int = 20
    failed_starts: int = 3


class RestartPolicy:
    """Exponential back-off from the second death in a row without a finished step; past the cap of such deaths, wait the minute out.

    A life that finished a step brought its streams forward: resting instead would only make them wait.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._deaths: deque[float] = deque()
        self._num_in_row = 0
        self._num_failed_starts = 0
        self._was_up = False
        self._was_useful = False

    def worker_up(self) -> None:
        """A start succeeded."""
        self._was_up = True
        self._num_failed_starts = 0

    def step_done(self) -> None:
        """A worker got something done."""
        self._was_useful = True

    def worker_died(self, now: float, *, was_up: bool) -> None:
        """Count a death, before or after its hello."""
        if self._was_useful:
            self._num_in_row = 0
        else:
            self._deaths.append(now)
        self._was_useful = False
        self._num_in_row += 1
        self._num_failed_starts += 0 if was_up else 1

    @property
    def is_hopeless(self) -> bool:
        """Whether no start ever succeeded, several times over."""
        return not self._was_up and self._num_failed_starts >= self._timing.failed_starts

    def delay(self, now: float) -> float:
        """Return how long to wait before the next start."""
        while self._deaths and self._deaths[0] <= now - WINDOW_SECONDS:
            self._deaths.popleft()
        if self.is_flapping:
            return max(0.0, self._deaths[-self._timing.restarts_per_minute] + WINDOW_SECONDS - now)
        if self._num_in_row <= 1:
            return 0.0
        return min(self._timing.longest_delay_seconds, self._timing.first_delay_seconds * 2.0 ** (self._num_in_row - 2))

    @property
    def is_flapping(self) -> bool:
        """Whether it died uselessly more often in the last minute than the cap allows (as of the last ``delay``)."""
        return len(self._deaths) > self._timing.restarts_per_minute


class Action(StrEnum):
    """What a watchdog asks for."""

    NOTHING = "nothing"
    PING = "ping"
    KILL = "kill"


class Watchdog:
    """Whether one worker still lives: it must say hello, finish steps, and answer when idle."""

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._step_seconds = timing.step_seconds
        self._kill_at = now + timing.start_seconds
        self._ping_at = inf

    @property
    def next_check(self) -> float:
        """When ``check`` is due."""
        return min(self._kill_at, self._ping_at)

    def up(self, now: float, self_test_seconds: float, max_step_tokens: int) -> None:
        """The worker said hello; its self-test of 8 rows tells how long a full step may take."""
        if not self._step_seconds:
            self._step_seconds = max(60.0, 20.0 * self_test_seconds * max_step_tokens / 8)
        self.idle(now)

    def idle(self, now: float) -> None:
        """A frame came that leaves the worker between steps."""
        self._kill_at = inf
        self._ping_at = now + self._timing.ping_interval_seconds

    def step_started(self, now: float) -> None:
        """A step runs: the worker cannot answer until it is over."""
        self._kill_at = now + self._step_seconds
        self._ping_at = inf

    def check(self, now: float) -> Action:
        """Say what is due; a PING is asked for once."""
        if now >= self._kill_at:
            self._kill_at = self._ping_at = inf
            return Action.KILL
        if now >= self._ping_at:
            self._ping_at = inf
            self._kill_at = now + self._timing.pong_seconds
            return Action.PING
        return Action.NOTHING

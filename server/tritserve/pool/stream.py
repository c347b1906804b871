"""A running request as the HTTP layer sees it: events in a queue that the router fills and the handler iterates."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tritserve.errors import RequestAborted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritserve.errors import ServerError
    from tritserve.pool.generation import GenerationEvent
    from tritserve.pool.journal import Entry
    from tritserve.pool.observer import Stage


class RunningGeneration:
    """A ``Generation``. The queue holds at most max_tokens events per choice (and the prompt's scores): no reader can make it grow.

    ``on_drop(self, choices, cancelled)`` hears the choices that nobody wants any more; the router stops them.
    """

    def __init__(self, num_choices: int, on_drop: Callable[[RunningGeneration, list[int], bool], None]) -> None:
        self.num_cached_tokens = 0
        self.queue_seconds: float | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self._open = set(range(num_choices))
        self._events: deque[GenerationEvent] = deque()
        self._wake = asyncio.Event()
        self._error: ServerError | None = None
        self._on_drop = on_drop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        while True:
            if self._events:
                return self._events.popleft()
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    @property
    def is_over(self) -> bool:
        """Whether every choice has ended."""
        return not self._open

    def finish_choice(self, choice: int) -> None:
        """End one choice without a further event of it. Synchronous, idempotent."""
        if choice in self._open:
            self._open.discard(choice)
            self._events = deque(event for event in self._events if getattr(event, "choice", None) != choice)
            self._on_drop(self, [choice], False)
            self._wake.set()

    def abort(self) -> None:
        """End every choice. Synchronous, idempotent; further iteration raises RequestAborted unless all had ended."""
        if self._open:
            self.fail(RequestAborted("The request was stopped."), cancelled=True)

    def deliver(self, event: GenerationEvent) -> None:
        """Queue an event of an open choice (for the router)."""
        self._events.append(event)
        self._wake.set()

    def close_choice(self, choice: int) -> None:
        """Mark a choice as ended by its last event (for the router)."""
        self._open.discard(choice)
        if not self._open and self.deadline is not None:
            self.deadline.cancel()
        self._wake.set()

    def fail(self, error: ServerError, *, cancelled: bool = False) -> None:
        """End the request with an error, raised behind the events already queued (for the router)."""
        choices, self._open = sorted(self._open), set()
        self._error = error
        self._on_drop(self, choices, cancelled)
        self._wake.set()


@dataclass(slots=True, eq=False)
class LiveChoice:
    """One choice in flight: its journal, its reader, its worker, and when things happened (loop time)."""

    index: int
    entry: Entry
    generation: RunningGeneration
    worker: int
    reserved_tokens: int
    submitted_at: float
    started_at: float | None = None
    first_token_at: float | None = None
    was_admitted: bool = False

    @property
    def stage(self) -> Stage:
        """How far it is."""
        if self.started_at is None:
            return "queued"
        return "prefill" if self.first_token_at is None else "decode"

"""A pool without workers: what it answers is said beforehand, and it remembers what it was asked."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tritserve.api.front import Front
from tritserve.pool.generation import ChoiceToken, PoolStatus
from tritserve.protocol import TokenLogprob
from tritserve.settings import Settings
from tritserve.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tritserve.api.front import ServedModel
    from tritserve.api.keys import KeyRing
    from tritserve.pool.generation import Generation, GenerationEvent, GenerationRequest

READY = PoolStatus(
    ready=True,
    draining=False,
    failed=None,
    num_workers=1,
    isa="ref",
    kernels="ref",
    num_threads=1,
    max_model_len=1024,
    num_running=0,
    num_waiting=0,
    kv_used_bytes=0,
    kv_capacity_bytes=1 << 20,
)


def token(choice: int, token_id: int, finish: str | None = None, logprob: float = -0.5) -> ChoiceToken:
    """Make an event."""
    return ChoiceToken(choice, TokenLogprob(token_id, logprob, []), cast("Any", finish))


class FakeGeneration:
    """Yields ``events``, then raises ``error``, ends, or (``endless``) waits until it is aborted."""

    def __init__(
        self, events: Iterable[GenerationEvent] = (), error: Exception | None = None, *, endless: bool = False
    ) -> None:
        self.num_cached_tokens = 0
        self.queue_seconds: float | None = None
        self.finished: list[int] = []
        self.aborted = asyncio.Event()
        self._events = list(events)
        self._error = error
        self._endless = endless

    def __aiter__(self) -> FakeGeneration:
        return self

    async def __anext__(self) -> GenerationEvent:
        while self._events:
            event = self._events.pop(0)
            if getattr(event, "choice", None) not in self.finished:
                return event
        if self._error is not None:
            raise self._error
        if self._endless:
            await self.aborted.wait()
        raise StopAsyncIteration

    def finish_choice(self, choice: int) -> None:
        self.finished.append(choice)

    def abort(self) -> None:
        self.aborted.set()


class FakePool:
    """``answer`` makes the generation of a request, or raises what ``submit`` shall raise."""

    def __init__(self, answer: Callable[[GenerationRequest], Generation] | None = None) -> None:
        self.status = READY
        self.requests: list[GenerationRequest] = []
        self.drained: list[float] = []
        self.finish_draining = asyncio.Event()
        self._answer = answer or (lambda _: FakeGeneration())

    def set_status(self, **changes: Any) -> None:
        self.status = dataclasses.replace(self.status, **changes)

    async def start(self) -> None:
        return

    async def submit(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        return self._answer(request)

    async def drain(self, timeout_seconds: float) -> None:
        self.drained.append(timeout_seconds)
        self.set_status(draining=True, ready=False)
        if timeout_seconds > 0:
            await self.finish_draining.wait()
        self.finish_draining.set()


def fake_front(
    pool: FakePool | None = None,
    *,
    model: ServedModel | None = None,
    keys: KeyRing | None = None,
    **settings: Any,
) -> Front:
    """Return a front around a fake pool; without ``model`` only routes that need no text work."""
    served = model or cast("ServedModel", SimpleNamespace(names=("demo", "alias"), created=0, weights_sha256="ab" * 32))
    loaded = Settings(**settings)
    telemetry = Telemetry(model=served.names[0], context=1024, queue_limit=loaded.queue_limit)
    return Front(loaded, pool or FakePool(), served, telemetry, keys)

"""Keep the workers alive: spawn, watch, kill what hangs, start again, and tell the router.

One task per slot lives as long as the pool. A slot keeps its KV memory over the lives of its workers; a successor starts only
after its predecessor is reaped, so two never write the same memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tritserve.pool.launch import WORKER_COMMAND, spawn
from tritserve.pool.link import WorkerLink
from tritserve.pool.restart import Action, RestartPolicy, Timing, Watchdog
from tritserve.protocol import (
    PROTOCOL_VERSION,
    Failed,
    GrammarDone,
    GrammarStarted,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    StepDone,
    StepStarted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritserve.pool.observer import RestartReason
    from tritserve.protocol import Start, ToFront, ToWorker, WorkerReport

logger = logging.getLogger(__name__)
_EXIT_SECONDS = 2.0
_REAP_SECONDS = 10.0


class WorkerEvents(Protocol):
    """What the supervisor tells the router."""

    def worker_up(self, index: int, hello: Hello, send: Callable[[ToWorker], None]) -> None: ...

    def worker_message(self, index: int, message: WorkerReport) -> None: ...

    def worker_down(self, index: int, reason: RestartReason) -> None: ...

    def worker_lost(self, index: int) -> None: ...

    def pool_failed(self, message: str) -> None: ...


@dataclass(slots=True)
class Slot:
    """One worker's place: its KV memory, how to start it, and its current life."""

    index: int
    kv_fd: int
    start: Start
    policy: RestartPolicy
    process: subprocess.Popen[bytes] | None = None
    is_given_up: bool = False


class _Life:
    """One worker process from spawn to its last frame."""

    def __init__(self, slot: Slot, events: WorkerEvents, timing: Timing) -> None:
        self.was_up = False
        self.failure: Failed | None = None
        self._slot = slot
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(timing, self._loop.time())
        self._link = WorkerLink(self._on_message)
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._was_hung = False

    async def run(self, process: subprocess.Popen[bytes]) -> RestartReason | None:
        """Watch until the socket ends. Returns why, if it was not the process itself."""
        self._process = process
        self._link.send(self._slot.start)
        self._arm()
        try:
            error = await self._link.closed
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if error is not None:
            logger.error("worker %d broke the protocol: %s", self._slot.index, error)
            return "protocol"
        return "hang" if self._was_hung else None

    @property
    def link(self) -> WorkerLink:
        """The socket's protocol object."""
        return self._link

    def _arm(self) -> None:
        """Look at the watchdog when it is due; a deadline that moved away is found out when the old one passes."""
        due = self._watchdog.next_check
        if due == math.inf or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        match self._watchdog.check(self._loop.time()):
            case Action.PING:
                self._link.send(Ping(self._slot.index))
            case Action.KILL if self._process is not None:
                logger.error("worker %d (pid %d) hangs and is killed", self._slot.index, self._process.pid)
                self._was_hung = True
                self._process.kill()  # its last frames are still read: the life ends with the socket
            case _:
                pass
        self._arm()

    def _on_message(self, message: ToFront) -> None:
        self._handle(message, self._loop.time())
        self._arm()

    def _handle(self, message: ToFront, now: float) -> None:
        match message:
            case Hello():
                self._greet(message, now)
            case Failed():
                self.failure = message
            case _ if not self.was_up:
                raise ProtocolError(f"{type(message).__name__} before Hello")
            case StepStarted():
                self._watchdog.step_started(now)
                self._events.worker_message(self._slot.index, message)
            case StepDone():
                self._watchdog.idle(now)
                self._slot.policy.step_done()
                self._events.worker_message(self._slot.index, message)
            case GrammarStarted() | GrammarDone():
                self._events.worker_message(self._slot.index, message)
            case Pong():
                self._watchdog.idle(now)

    def _greet(self, hello: Hello, now: float) -> None:
        if hello.version != PROTOCOL_VERSION or self.was_up:
            raise ProtocolError(f"Hello of version {hello.version}, expected one of version {PROTOCOL_VERSION}")
        self.was_up = True
        self._watchdog.up(now, hello.self_test_seconds, self._slot.start.max_step_tokens)
        self._slot.policy.worker_up()
        logger.info(
            "worker %d is up: pid %d, %s, %d threads, %d blocks (%d adopted), %.3f s",
            *(self._slot.index, hello.pid, hello.isa, hello.num_threads, hello.num_blocks, hello.num_adopted_blocks),
            hello.load_seconds + hello.self_test_seconds,
        )
        self._events.worker_up(self._slot.index, hello, self._link.send)


class Supervisor:
    """The slots and their tasks. ``start`` returns at once; ``stop`` ends every worker."""

    def __init__(
        self,
        starts: Sequence[tuple[Start, int]],
        events: WorkerEvents,
        timing: Timing,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.slots = [Slot(i, kv_fd, start, RestartPolicy(timing)) for i, (start, kv_fd) in enumerate(starts)]
        self._events = events
        self._timing = timing
        self._command = command
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every slot's task."""
        self._tasks = [asyncio.create_task(self._keep(slot), name=f"worker-{slot.index}") for slot in self.slots]

    async def stop(self) -> None:
        """Kill every worker (they hold nothing that is not elsewhere), wait for them, release the KV memory."""
        self._stopping.set()
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self.slots:
            if slot.kv_fd >= 0:
                os.close(slot.kv_fd)
                slot.kv_fd = -1

    async def _keep(self, slot: Slot) -> None:
        try:
            while not self._stopping.is_set() and await self._live_once(slot):
                await self._pause(slot)
        except Exception as error:
            logger.exception("worker %d can no longer be kept", slot.index)
            self._events.pool_failed(f"internal error while keeping worker {slot.index}: {type(error).__name__}")
            raise

    async def _live_once(self, slot: Slot) -> bool:
        """Run one worker from spawn to grave. Returns whether to start another."""
        loop = asyncio.get_running_loop()
        try:
            slot.process, sock = spawn(self._command, slot.kv_fd)
        except OSError as error:  # no memory or no process left: may pass
            return self._died(slot, None, 0, Failed(f"cannot start a process: {error.strerror}", fatal=False))
        life = _Life(slot, self._events, self._timing)
        reason: RestartReason | None = None
        try:
            await loop.create_unix_connection(lambda: life.link, sock=sock)
            reason = await life.run(slot.process)
        finally:
            life.link.close()
            # A worker that ends by itself closes its socket a moment before it has an exit code: worth waiting for.
            grace = _EXIT_SECONDS if reason is None and not self._stopping.is_set() else 0.0
            code = await asyncio.to_thread(_reap, slot.process, grace)
        if self._stopping.is_set():
            return False
        return self._died(slot, reason, code, life.failure, was_up=life.was_up)

    def _died(
        self, slot: Slot, reason: RestartReason | None, code: int, failure: Failed | None, *, was_up: bool = False
    ) -> bool:
        slot.policy.worker_died(asyncio.get_running_loop().time(), was_up=was_up)
        logger.error("worker %d ended with code %d%s", slot.index, code, f": {failure.message}" if failure else "")
        self._events.worker_down(slot.index, reason or ("crash" if code < 0 else "exit"))
        return not self._is_beyond_help(slot, failure, code)

    def _is_beyond_help(self, slot: Slot, failure: Failed | None, code: int) -> bool:
        """Whether to give the slot up; with the last one the pool has failed."""
        if failure is not None and failure.fatal:
            why = failure.message
        elif slot.policy.is_hopeless:
            why = failure.message if failure is not None else f"it ended with code {code} before it was ready"
        else:
            return False
        slot.is_given_up = True
        if all(other.is_given_up for other in self.slots):
            self._events.pool_failed(why)
        else:
            self._events.worker_lost(slot.index)
        return True

    async def _pause(self, slot: Slot) -> None:
        delay = slot.policy.delay(asyncio.get_running_loop().time())
        if slot.policy.is_flapping:
            logger.error("worker %d died too often and rests for %.0f s", slot.index, delay)
            self._events.worker_lost(slot.index)
        if delay > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()


def _reap(process: subprocess.Popen[bytes], grace_seconds: float) -> int:
    """Wait for a process, at most ``grace_seconds`` before it is killed. Returns its code; raises TimeoutExpired if even that fails."""
    try:
        return process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(_REAP_SECONDS)

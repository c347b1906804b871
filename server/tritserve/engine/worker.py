"""The worker process: ``python -m tritserve.engine.worker --socket-fd N --kv-fd N --parent-pid N``.

It talks through one inherited socket and nothing else: the first frame is ``Start``, the answer ``Hello`` (or ``Failed``), then
it takes sequences and reports steps until the socket ends. The journal is the front's: whatever goes wrong here, dying is
safe, and is what it does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from tritserve.engine.channel import Channel, Closed
from tritserve.engine.core import EngineCore
from tritserve.engine.process import OrphanedError, confine, die_with_parent
from tritserve.engine.scheduler import SchedulerLimits
from tritserve.errors import NativeError, ServerError
from tritserve.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    Start,
    Submit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritserve.engine.model_runner import ModelRunner
    from tritserve.protocol import ToFront

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None, open_runner: Callable[[Start, int], ModelRunner] | None = None) -> int:
    """Run a worker until its socket ends; returns the exit code. ``open_runner`` makes the model (tests replace it)."""
    parser = argparse.ArgumentParser(prog="tritserve.engine.worker")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--kv-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="worker %(process)d %(levelname)s %(message)s")
    try:
        die_with_parent(options.parent_pid)
        confine()
        channel = Channel(socket.socket(fileno=options.socket_fd))
        _serve(channel, options.kv_fd, open_runner or _open_native)
    except (Closed, OrphanedError):
        return 0
    except ProtocolError as error:
        logger.error("protocol error: %s", error)
        return 3
    return 1


def _serve(channel: Channel, kv_fd: int, open_runner: Callable[[Start, int], ModelRunner]) -> None:
    start, *rest = channel.receive(wait=True)
    if not isinstance(start, Start) or start.version != PROTOCOL_VERSION:
        raise ProtocolError("the first frame is not a Start of this protocol version")
    if start.cpus:
        os.sched_setaffinity(0, start.cpus)  # before any thread exists: they inherit it
    began = time.perf_counter()
    try:
        core, hello = _load(start, kv_fd, open_runner, began)
    except (ServerError, OSError, MemoryError) as error:
        channel.send(Failed(str(error) or type(error).__name__, fatal=_is_fatal(error)))
        raise Closed("the model could not be loaded") from error
    channel.send(hello)
    worker = _Worker(channel, core)
    for message in rest:
        worker.handle(message)
    worker.run()


def _load(
    start: Start, kv_fd: int, open_runner: Callable[[Start, int], ModelRunner], began: float
) -> tuple[EngineCore, Hello]:
    runner = open_runner(start, kv_fd)
    info = runner.info
    limits = SchedulerLimits(min(start.max_batch_size, start.max_step_tokens), start.max_step_tokens)
    core = EngineCore(runner, limits, min(start.max_model_len or info.max_positions, info.max_positions))
    num_adopted = core.adopt_blocks()
    loaded = time.perf_counter()
    core.self_test()
    hello = Hello(
        version=PROTOCOL_VERSION,
        pid=os.getpid(),
        vocab=info.vocab,
        isa=info.isa,
        kernels=info.kernels,
        kernel_times=list(info.kernel_times),
        num_threads=info.num_threads,
        num_blocks=info.num_blocks,
        num_adopted_blocks=num_adopted,
        block_bytes=info.block_bytes,
        max_model_len=core.max_model_len,
        load_seconds=loaded - began,
        self_test_seconds=time.perf_counter() - loaded,
    )
    return core, hello


def _is_fatal(error: BaseException) -> bool:
    """Whether starting again would only fail again; memory and descriptors may come back."""
    if isinstance(error, NativeError):
        return error.status != "TRIT_ERR_MEMORY"
    return isinstance(error, (ServerError, FileNotFoundError, PermissionError))


def _open_native(start: Start, kv_fd: int) -> ModelRunner:
    # Imported here: the library is found only where it was built, and everything else of the worker runs without it.
    from tritserve.engine.runner import NativeRunner

    return NativeRunner(start, kv_fd)


class _Worker:
    """The loop: take what the front sent, run a step, report it."""

    def __init__(self, channel: Channel, core: EngineCore) -> None:
        self._channel = channel
        self._core = core
        core.grammars.report = self._report
        channel.wake_by(core.grammars.wake_fd)

    def run(self) -> None:
        """Serve until the socket ends. Raises Closed, ProtocolError, or what the model raises."""
        while True:
            for message in self._channel.receive(wait=not (self._core.has_work or self._core.has_news)):
                self.handle(message)
            self._core.release_compiled()
            if self._core.has_work or self._core.has_news:
                self._channel.send(self._core.step(self._channel.send))

    def handle(self, message: object) -> None:
        """Apply one message; ends take effect before the next step is scheduled."""
        match message:
            case Submit():
                self._core.submit(message)
            case Abort(seq_ids):
                self._core.abort(seq_ids)
            case Ping(nonce):
                self._channel.send(Pong(nonce))
            case _:
                raise ProtocolError(f"{type(message).__name__} is out of place")

    def _report(self, message: ToFront) -> None:
        """Send from the thread that compiles; whether the front is gone shows in the loop."""
        with contextlib.suppress(Closed):
            self._channel.send(message)


if __name__ == "__main__":
    sys.exit(main())

"""Run the front until a signal: serve at once, say when it is ready, drain with the listener open, end with 0.

uvicorn's own signal handling closes the listener at once and ends the process by the signal; it is replaced here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from typing import TYPE_CHECKING

import uvloop

from tritserve.errors import Unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tritserve.api.front import Front
    from tritserve.api.server import Server
    from tritserve.pool.generation import Pool, PoolStatus
    from tritserve.settings import Settings

logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SPARE_DESCRIPTORS = 256
_LOADING_POLL_SECONDS = 0.01
_READY_POLL_SECONDS = 0.5


def run(
    settings: Settings,
    pool: Pool,
    make_front: Callable[[], Front],
    listener: socket.socket,
    *,
    on_ready: Callable[[PoolStatus], None],
) -> int:
    """Serve on a bound, listening socket until SIGTERM or SIGINT. Returns the exit code, 0.

    ``make_front`` is called once, in a thread, after ``pool`` was started; the front is over that pool.
    Answers soon, with 503 while the model is loaded; ``on_ready`` is called once, in the event loop. The first signal drains: new work
    is refused with 503 while the listener stays open, running requests get ``drain_timeout_seconds``. A second one ends them now.
    Raises Unavailable with the reason if no worker can ever start, SettingsError if the TLS files are unusable.
    """
    _allow_descriptors(settings.max_connections)
    return uvloop.run(serve(settings, pool, make_front, listener, on_ready=on_ready))


async def serve(
    settings: Settings,
    pool: Pool,
    make_front: Callable[[], Front],
    listener: socket.socket,
    *,
    on_ready: Callable[[PoolStatus], None],
) -> int:
    """Do what ``run`` says, in the running event loop."""
    stopping = asyncio.Event()
    await pool.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            with _signals(stopping, tasks, pool):
                # The workers load the model while the tokenizer is read and the web framework imported, in a thread beside the loop
                # that talks to them.
                server = await asyncio.to_thread(_make_server, make_front)
                gc.freeze()  # what starting made stays: the collector need not walk it again and again
                gc.enable()
                serving = tasks.create_task(server.serve(sockets=[listener]))
                watching = tasks.create_task(_watch(pool, on_ready))
                signalled = tasks.create_task(stopping.wait())
                await asyncio.wait((signalled, watching, serving), return_when=asyncio.FIRST_COMPLETED)
                if stopping.is_set():
                    await pool.drain(settings.drain_timeout_seconds)
                server.should_exit = True
                await serving
            signalled.cancel()
            watching.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await pool.drain(0)
    failed = pool.status.failed
    if failed is not None and not stopping.is_set():
        raise Unavailable(f"The model could not be loaded: {failed}")
    return 0


def _make_server(make_front: Callable[[], Front]) -> Server:
    from tritserve.api.app import create_app
    from tritserve.api.server import Server, server_config

    front = make_front()
    return Server(server_config(create_app(front), front.settings, front.telemetry))


async def _watch(pool: Pool, on_ready: Callable[[PoolStatus], None]) -> None:
    """Report readiness once; return when the pool has failed for good."""
    was_ready = False
    while (status := pool.status).failed is None:
        if status.ready and not was_ready:
            was_ready = True
            logger.info("ready")
            on_ready(status)
        await asyncio.sleep(_READY_POLL_SECONDS if was_ready else _LOADING_POLL_SECONDS)


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, tasks: asyncio.TaskGroup, pool: Pool) -> Iterator[None]:
    """Let the first signal set ``stopping`` and every later one end what still runs."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if not stopping.is_set():
            status = pool.status
            running = status.num_running + status.num_waiting
            logger.info("%s: draining, %d running, again to hurry", number.name, running)
            stopping.set()
        else:
            logger.info("%s: ending what still runs", number.name)
            tasks.create_task(pool.drain(0))

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _allow_descriptors(num_connections: int) -> None:
    """Raise our limit on open files so that every allowed connection can have one, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + _SPARE_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning("only %d files may be open: fewer than max_connections (%d) need", allowed, num_connections)

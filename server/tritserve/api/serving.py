"""Run the front until a signal: serve at once, say when it is ready, drain with the listener open, end with 0.

uvicorn's own signal handling closes the listener at once and ends the process by the signal; it is replaced here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from tritserve.api.app import create_app
from tritserve.api.edge import KEEP_ALIVE_SECONDS, edge_protocol
from tritserve.errors import SettingsError, Unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

    from tritserve.api.front import Front
    from tritserve.pool.generation import PoolStatus
    from tritserve.settings import Settings
    from tritserve.telemetry import Telemetry

logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS = 5  # for answers that are complete here and not yet at the client
_SPARE_DESCRIPTORS = 256
_LOADING_POLL_SECONDS = 0.01
_READY_POLL_SECONDS = 0.5


def run(front: Front, listener: socket.socket, *, on_ready: Callable[[PoolStatus], None]) -> int:
    """Serve on a bound, listening socket until SIGTERM or SIGINT. Returns the exit code, 0.

    Answers at once, with 503 while the model is loaded; ``on_ready`` is called once, in the event loop. The first signal drains: new work
    is refused with 503 while the listener stays open, running requests get ``drain_timeout_seconds``. A second one ends them now.
    Raises Unavailable with the reason if no worker can ever start, SettingsError if the TLS files are unusable.
    """
    _allow_descriptors(front.settings.max_connections)
    return uvloop.run(serve(front, listener, on_ready=on_ready))


async def serve(front: Front, listener: socket.socket, *, on_ready: Callable[[PoolStatus], None]) -> int:
    """Do what ``run`` says, in the running event loop."""
    server = Server(server_config(create_app(front), front.settings, front.telemetry))
    stopping = asyncio.Event()
    await front.pool.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            watching = tasks.create_task(_watch(front, on_ready))
            signalled = tasks.create_task(stopping.wait())
            with _signals(stopping, tasks, front):
                await asyncio.wait((signalled, watching, serving), return_when=asyncio.FIRST_COMPLETED)
                if stopping.is_set():
                    await front.pool.drain(front.settings.drain_timeout_seconds)
                server.should_exit = True
                await serving
            signalled.cancel()
            watching.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await front.pool.drain(0)
    failed = front.pool.status.failed
    if failed is not None and not stopping.is_set():
        raise Unavailable(f"The model could not be loaded: {failed}")
    return 0


class Server(uvicorn.Server):
    """uvicorn's server; signals are left to ``serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _watch(front: Front, on_ready: Callable[[PoolStatus], None]) -> None:
    """Report readiness once; return when the pool has failed for good."""
    was_ready = False
    while (status := front.pool.status).failed is None:
        if status.ready and not was_ready:
            was_ready = True
            logger.info("ready")
            on_ready(status)
        await asyncio.sleep(_READY_POLL_SECONDS if was_ready else _LOADING_POLL_SECONDS)


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, tasks: asyncio.TaskGroup, front: Front) -> Iterator[None]:
    """Let the first signal set ``stopping`` and every later one end what still runs."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if not stopping.is_set():
            status = front.pool.status
            running = status.num_running + status.num_waiting
            logger.info("%s: draining, %d running, again to hurry", number.name, running)
            stopping.set()
        else:
            logger.info("%s: ending what still runs", number.name)
            tasks.create_task(front.pool.drain(0))

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def server_config(app: ASGIApp, settings: Settings, telemetry: Telemetry) -> uvicorn.Config:
    """Return how uvicorn serves ``app`` behind the edge. Raises SettingsError if the TLS files are unusable."""
    config = uvicorn.Config(
        app,
        http=edge_protocol(settings, telemetry),
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
        ssl_certfile=settings.tls_certfile,
        ssl_keyfile=settings.tls_keyfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"cannot use the TLS files {settings.tls_certfile} and {settings.tls_keyfile}: {error.strerror or error}"
        ) from error
    return config


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

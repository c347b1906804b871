"""uvicorn behind our edge: its configuration, and its server without signal handling of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import uvicorn

from tritserve.api.edge import KEEP_ALIVE_SECONDS, edge_protocol
from tritserve.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from tritserve.settings import Settings
    from tritserve.telemetry import Telemetry

_FLUSH_SECONDS = 5  # for answers that are complete here and not yet at the client


class Server(uvicorn.Server):
    """uvicorn's server; signals are left to ``serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


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

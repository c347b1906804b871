"""The whole application around a scripted pool, with real telemetry, spoken to without a socket."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx
from byte_front import byte_front
from scripted_pool import ScriptedPool

from tritserve.api.app import create_app
from tritserve.telemetry import Telemetry

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tritserve.api.front import Front
    from tritserve.api.keys import KeyRing


def whole_front(pool: ScriptedPool | None = None, *, keys: KeyRing | None = None, **settings: Any) -> Front:
    """Return a front as ``tritserve serve`` makes it, but for the pool and the model's text."""
    front = byte_front(pool or ScriptedPool(), **settings)
    telemetry = Telemetry(
        model=front.model.names[0], context=256, queue_limit=front.settings.queue_limit, weights_sha256="ab" * 32
    )
    return dataclasses.replace(front, telemetry=telemetry, keys=keys)


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """Return a client that sends exactly the headers it is told, from localhost."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def client(pool: ScriptedPool | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of a new whole application."""
    return client_of(create_app(whole_front(pool, **options)))


async def call(
    app: FastAPI, method: str, raw_path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request whose path no client library has tidied up; return status, headers and body."""
    raw = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in raw.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], answered, b"".join(message["body"] for message in messages[1:])


def sample(front: Front, name: str, **labels: str) -> float | None:
    """Return a metric's value, None if that series does not exist."""
    return front.telemetry.registry.get_sample_value(name, {"model": front.model.names[0], **labels})

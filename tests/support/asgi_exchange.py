"""One request to an ASGI app, message by message: the test decides when the connection takes bytes and when the client leaves."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message


class Exchange:
    """What the app sent so far. ``room`` is set while the connection takes more; without it ``send`` waits."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.bodies: list[bytes] = []
        self.is_complete = False
        self.room = asyncio.Event()
        self.room.set()
        self.num_sends = 0
        self._left = asyncio.Event()
        self._sent = asyncio.Event()

    def leave(self) -> None:
        """The client closes the connection."""
        self._left.set()
        self.room.set()

    def refuse(self, error: OSError) -> None:
        """Every further send raises, as some servers do when the client has left."""
        self._error = error

    async def until(self, text: bytes) -> None:
        """Wait until the app sent ``text``."""
        while text not in b"".join(self.bodies):
            self._sent.clear()
            await self._sent.wait()

    @property
    def text(self) -> str:
        """The body so far."""
        return b"".join(self.bodies).decode()

    _error: OSError | None = None

    async def send(self, message: Message) -> None:
        """Take a message of the app (ASGI)."""
        self.num_sends += 1
        await self.room.wait()
        if self._error is not None:
            raise self._error
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.bodies.append(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        self._sent.set()

    async def wait_to_leave(self) -> Message:
        """Return when the client left (ASGI ``receive`` behind the body)."""
        await self._left.wait()
        return {"type": "http.disconnect"}


@asynccontextmanager
async def exchange(app: ASGIApp, path: str, body: dict[str, Any]) -> AsyncIterator[tuple[Exchange, asyncio.Task[None]]]:
    """Post ``body``; yield the exchange and the app's task, which is cancelled at the end if it still runs."""
    found = Exchange()
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await found.wait_to_leave()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }

    async def call() -> None:
        await app(scope, receive, found.send)

    task = asyncio.create_task(call())
    try:
        yield found, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

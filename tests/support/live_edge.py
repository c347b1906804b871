"""An ASGI application behind the real edge, on a port of its own, in a thread with uvloop; and a raw socket to talk to it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvloop

from tritserve.api.server import Server, server_config
from tritserve.cli.listener import open_listener
from tritserve.settings import Settings
from tritserve.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

WAIT_SECONDS = 20.0
BIG_BYTES = 32 * 1024 * 1024  # more than the kernel's buffers take


class App:
    """/echo answers with the length of the body; /stream never ends; /hang reads nothing and waits for the client to leave."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bytes_streamed = 0
        self.began = threading.Event()
        self.client_left = threading.Event()
        self.stalled = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        self.began.set()
        match scope["path"]:
            case "/stream":
                await self._stream(receive, send)
            case "/hang":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.client_left.set()
            case "/big":
                await _answer(send, b"x" * BIG_BYTES)
            case "/early":
                await _answer(send, b"early")
            case _:
                await self._echo(receive, send)

    async def _echo(self, receive: Receive, send: Send) -> None:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.client_left.set()
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await _answer(send, str(size).encode())

    async def _stream(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            sending = asyncio.ensure_future(
                send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
            )
            if not (await asyncio.wait((sending,), timeout=0.1))[0]:
                self.stalled.set()
            await sending
            self.bytes_streamed += 4096
        self.client_left.set()


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Live:
    """A running server."""

    def __init__(self, app: Any, server: Server, telemetry: Telemetry, port: int) -> None:
        self.app = app
        self.server = server
        self.telemetry = telemetry
        self.port = port

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS) as sock:
            yield sock

    def ask(self, data: bytes) -> list[tuple[int, bytes]]:
        """Send bytes, read until the server closes; return the answers."""
        with self.connect() as sock:
            return self.finish(sock, data)

    def finish(self, sock: socket.socket, data: bytes = b"") -> list[tuple[int, bytes]]:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough; its answer is there to be read
            sock.sendall(data)
        return answers(read_all(sock))

    def until_connections(self, wanted: int) -> None:
        """Wait until so many connections are open."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.server.server_state.connections) != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.server.server_state.connections)} connections are open")
            self.ask(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    def count(self, code: int) -> float:
        """How many answers with this status the metrics counted."""
        families = self.telemetry.registry.collect()
        samples = [s for f in families if f.name == "tritserve_http_requests" for s in f.samples]
        return sum(s.value for s in samples if s.labels["code"] == str(code) and s.name.endswith("_total"))


def read_all(sock: socket.socket) -> bytes:
    """Read until the server closes or resets."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """Split answers with a content length into (status, body)."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:])}
        length = int(fields[b"content-length"])
        found.append((int(lines[0].split()[1]), data[:length]))
        data = data[length:]
    return found


def error_code(body: bytes) -> str:
    """The code in an error body, which must have OpenAI's shape."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return str(error["code"])


@contextmanager
def live(app: Any = None, **settings: Any) -> Iterator[Live]:
    """Serve ``app`` with these settings."""
    loaded = Settings(**settings)
    telemetry = Telemetry(model="demo", context=1024, queue_limit=loaded.queue_limit)
    app = app or App()
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = Server(server_config(app, loaded, telemetry))
        thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield Live(app, server, telemetry, port)
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)

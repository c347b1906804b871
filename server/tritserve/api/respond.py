"""The two ways to answer a generation request: whole, or as a stream of events. Either way a client that leaves stops its generation."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol

from starlette.responses import Response

from tritserve.api import sse
from tritserve.api.http_errors import reply_to
from tritserve.api.parameters import ignored_headers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from tritserve.api.answer import Piece
    from tritserve.api.front import Front
    from tritserve.api.generate import EchoedPrompt, Run
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.meter import Meter
    from tritserve.api.schemas.answers import Usage

JSON_MEDIA_TYPE = "application/json"


class Writer(Protocol):
    """Writes one request's answer in the shape of its endpoint; a writer is used for one of the two ways. Events are whole ones (``sse.py``)."""

    def opening(self) -> Iterable[bytes]:
        """Events that a stream begins with, before anything was generated."""
        ...

    def events(self, piece: Piece | EchoedPrompt) -> Iterable[bytes]:
        """Events for one piece."""
        ...

    def closing(self, usage: Usage) -> Iterable[bytes]:
        """Events that end a stream in which nothing went wrong."""
        ...

    def failure(self, reply: ErrorReply) -> bytes:
        """The event that ends any other stream: the status is gone, so it says what ``reply`` would."""
        ...

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        ...

    def whole(self, usage: Usage) -> bytes:
        """The whole answer."""
        ...


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Report a request that is refused before its answer begins, and leave nothing of it running."""
    try:
        yield
    except BaseException as error:
        for generation in meter.generations:
            generation.abort()
        meter.failed(error)
        meter.close()
        raise


async def respond(request: Request, run: Run, writer: Writer, ignored: Sequence[str]) -> Response:
    """Answer as the request asked for (``run.meter.stream``); ``ignored`` are its names that did nothing. Raises what generating does."""
    front: Front = request.app.state.front
    headers = ignored_headers(ignored)
    if run.meter.stream:
        return StreamResponse(run, writer, headers, front.settings.keep_alive_seconds)
    return await _whole_response(request, run, writer, headers)


async def _whole_response(request: Request, run: Run, writer: Writer, headers: Mapping[str, str]) -> Response:
    """Generate everything, then answer."""
    try:
        async with _watching(request.receive, run.client_gone), aclosing(run.pieces()) as pieces:
            async for piece in pieces:
                writer.add(piece)
        return Response(writer.whole(run.usage()), media_type=JSON_MEDIA_TYPE, headers=dict(headers))
    except BaseException as error:
        run.failed(error)
        raise
    finally:
        run.close()


class StreamResponse(Response):
    """An answer as server-sent events. Every send waits until the connection takes it: a slow reader holds back only itself."""

    def __init__(self, run: Run, writer: Writer, headers: Mapping[str, str], keep_alive_seconds: float) -> None:
        headers = {**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=sse.MEDIA_TYPE)
        del self.headers["content-length"]
        self._run = run
        self._writer = writer
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream (ASGI)."""
        run = self._run
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with _watching(receive, run.client_gone), _KeepAlive(send, self._keep_alive_seconds) as connection:
                await self._send_events(connection)
        except OSError as error:  # the connection is lost
            run.is_client_gone = True
            run.failed(error)
        finally:
            run.close()

    async def _send_events(self, connection: _KeepAlive) -> None:
        run = self._run
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    await connection.send(event)
        except OSError:
            raise
        except Exception as error:
            run.failed(error)
            run.abort()
            if run.is_client_gone:
                return
            # What the error may say is decided where statuses are.
            await connection.send(self._writer.failure(reply_to(error, run.meter.request_id)))
        await connection.end()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        for event in self._writer.opening():
            yield event
        async with aclosing(self._run.pieces()) as pieces:
            async for piece in pieces:
                for event in self._writer.events(piece):
                    yield event
        for event in self._writer.closing(self._run.usage()):
            yield event


class _KeepAlive:
    """A connection that says something when nothing was sent for a while."""

    def __init__(self, send: Send, interval_seconds: float) -> None:
        self._send = send
        self._interval_seconds = interval_seconds
        self._last_sent = time.monotonic()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _KeepAlive:
        self._task = asyncio.create_task(self._speak_when_silent())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await _cancel(self._task)

    async def send(self, frame: bytes) -> None:
        """Send bytes of the body; returns when the connection took them."""
        async with self._lock:
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})
            self._last_sent = time.monotonic()

    async def end(self) -> None:
        """End the body."""
        async with self._lock:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _speak_when_silent(self) -> None:
        while True:
            left = self._last_sent + self._interval_seconds - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self.send(sse.KEEP_ALIVE)


@asynccontextmanager
async def _watching(receive: Receive, on_gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``on_gone`` when the client leaves meanwhile. The request's body must have been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        on_gone()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        await _cancel(task)


async def _cancel(task: asyncio.Task[None]) -> None:
    """End a task of ours and wait for it; its own outcome does not matter any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # looked at: a lost connection shows up in the stream itself

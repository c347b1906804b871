"""Limits on bytes, headers and time, in the protocol class: before the parser sees a byte, and long before the application does.

uvicorn with httptools by default takes a header of 64 MiB, a hundred thousand of them, a body of any size, and waits for ever for the
rest of a request line. A connection here is in one of three states:

    idle  --first byte-->  head  --blank line-->  body  --last byte-->  idle
      |                      |                      |
      keep-alive time        max_header_bytes,      max_body_bytes, body_idle_timeout_seconds, in all
                             max_headers,           request_timeout_seconds; max_header_bytes of framing
                             header_timeout         in a row (chunk extensions, trailers)

A connection that breaks a limit gets one answer in OpenAI's error shape and is closed: the rest of what it sends is read and thrown
away for a moment, since closing with unread bytes would reset the connection and take the answer with it.

Writing: past ``write_buffer_bytes`` the route waits (uvicorn's flow control), and a client that reads nothing for
``slow_reader_timeout_seconds`` is cut off.
"""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tritserve.api.http_errors import ErrorReply, plain_reply, retry_headers
from tritserve.api.middleware import PROBES

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from tritserve.settings import Settings
    from tritserve.telemetry import Telemetry

logger = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 65
"""How long an idle connection stays: a little longer than proxies keep theirs, so that they close first."""

_LINGER_SECONDS = 2.0
_PROBE_CONNECTIONS = 32  # beyond max_connections, for health checks only: load must not look like death
_PIECE_BYTES = 16 * 1024
_URL_PATH = re.compile(rb"[^?#]*")


class _Stop(Exception):
    """Leave the parser; the connection has its answer."""


class EdgeProtocol(HttpToolsProtocol):
    """One connection. Subclasses made by ``edge_protocol`` carry the settings."""

    settings: Settings
    telemetry: Telemetry

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = httptools.HttpRequestParser(self)  # uvicorn's is lenient about bytes behind a last request
        self._state = "idle"
        self._head_bytes = 0  # of an unfinished head
        self._num_heads = 0
        self._body_until = 0.0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._is_deaf = False  # nothing that still arrives matters
        self._is_surplus = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._stalled_at: float | None = None

    # --- connection -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection in, or turn it away."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self.settings.write_buffer_bytes)
        surplus = len(self.connections) - self.settings.max_connections
        self._is_surplus = surplus > 0
        if surplus > _PROBE_CONNECTIONS:
            self.telemetry.on_http_answer("other", "other", 503)
            transport.abort()
            return
        self._wait(self.settings.header_timeout_seconds, self._on_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the route that its client is gone."""
        self._wait(None)
        self._end_stall()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._is_deaf = True
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
        self.pipeline.clear()

    def _wait(self, seconds: float | None, then: Any = None) -> None:
        """Replace the connection's one reading deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _wait_for_body(self) -> None:
        """A body may pause, but not trickle for ever."""
        left = max(0.0, self._body_until - self.loop.time())
        self._wait(min(self.settings.body_idle_timeout_seconds, left), self._on_slow_body)

    def _on_silence(self) -> None:
        """Nothing ever came."""
        self.transport.close()

    def _on_slow_head(self) -> None:
        seconds = self.settings.header_timeout_seconds
        if self.flow.read_paused:  # it is we who do not listen: an earlier request is being answered
            self._wait(seconds, self._on_slow_head)
            return
        self._refuse(plain_reply(408, f"The request's headers were not complete after {seconds:g} seconds."))

    def _on_slow_body(self) -> None:
        seconds = self.settings.body_idle_timeout_seconds
        if self.flow.read_paused:
            self._wait(seconds, self._on_slow_body)
        elif self.loop.time() >= self._body_until:
            self._refuse(plain_reply(408, "The request's body took longer than a whole request may."))
        else:
            self._refuse(plain_reply(408, f"Nothing of the request's body arrived for {seconds:g} seconds."))

    # --- reading ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser in pieces that cannot exceed a limit unnoticed."""
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if self._state == "idle" and self._head_bytes == 0:
            self._wait(self.settings.header_timeout_seconds, self._on_slow_head)
        elif self._state == "body":
            self._wait_for_body()
        view = memoryview(data)
        while view and not self._is_deaf:
            room = _PIECE_BYTES
            if self._state != "body":
                room = min(room, self.settings.max_header_bytes - self._head_bytes)
            self._feed(view[:room])
            view = view[room:]

    def _feed(self, piece: memoryview) -> None:
        before, heads_before, body_before = self._state, self._num_heads, self._body_bytes
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            # The parser stops at an offer to speak another protocol (Java's client makes one with every request). We do not take it
            # up, so the request goes on as if it had not been made, body and all.
            head = self._head_without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self._feed(memoryview(head + piece[offer.args[0] :]))
        except httptools.HttpParserError:
            if not self._is_deaf:
                self._refuse(plain_reply(400, "This is not a valid HTTP/1.1 request."))
        if self._is_deaf:
            return
        if self._state == "body":
            # Bytes that were no body: chunk sizes and extensions, trailers. What one piece mixes is let pass.
            moved = self._num_heads != heads_before or self._body_bytes != body_before
            self._framing_bytes = 0 if moved else self._framing_bytes + len(piece)
            if self._framing_bytes > self.settings.max_header_bytes:
                self._refuse(plain_reply(413, "The request's body has more framing than content."))
        elif before != "body" and self._num_heads == heads_before:
            self._head_bytes += len(piece)
            if self._head_bytes >= self.settings.max_header_bytes:
                limit = self.settings.max_header_bytes
                self._refuse(plain_reply(431, f"The request's headers exceed the limit of {limit} bytes."))

    # --- what the parser finds --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._state = "head"
        self._wait(self.settings.header_timeout_seconds, self._on_slow_head)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one behind the body (a trailer) is dropped: nobody may smuggle one past who read the head."""
        if self._state == "body":
            return
        if len(self.headers) >= self.settings.max_headers:
            self._stop(plain_reply(431, f"The request has more than {self.settings.max_headers} headers."))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head; then the application starts."""
        if self.parser.get_method() == b"CONNECT":
            self._stop(plain_reply(400, "This server is no proxy."))
        if self.parser.should_upgrade():
            return
        self._check_head()
        self._state = "body"
        self._num_heads += 1
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        self._body_until = self.loop.time() + self.settings.request_timeout_seconds
        self._wait_for_body()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count the body as it comes."""
        self._body_bytes += len(body)
        if self._body_bytes > self.settings.max_body_bytes:
            self._stop(self._body_too_large())
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete; the next may follow on the connection."""
        if self.parser.should_upgrade():
            return
        self._state = "idle"
        self._wait(None)
        super().on_message_complete()
        if not self.parser.should_keep_alive():
            self._is_deaf = True  # what follows the last request is nobody's

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), b"connection: close"]
        lines += [b"%b: %b" % each for each in self.headers if each[0] not in (b"connection", b"upgrade")]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._stop(plain_reply(505, "This server speaks HTTP/1.1."))
        values: dict[bytes, list[bytes]] = {b"host": [], b"content-length": [], b"transfer-encoding": []}
        for name, value in self.headers:
            if name in values:
                values[name].append(value)
        if version == "1.1" and len(values[b"host"]) != 1:
            self._stop(plain_reply(400, "An HTTP/1.1 request has exactly one Host header."))
        coding = b",".join(values[b"transfer-encoding"]).strip().lower()
        if coding and (coding != b"chunked" or version == "1.0"):
            self._stop(plain_reply(400, "The only transfer coding is chunked, with HTTP/1.1."))
        # The parser has refused a length that is not plain digits, given twice, or given beside a transfer coding.
        if values[b"content-length"] and int(values[b"content-length"][0]) > self.settings.max_body_bytes:
            self._stop(self._body_too_large())
        path = _URL_PATH.match(self.url)
        if self._is_surplus and (path is None or path[0].decode("latin-1") not in PROBES):
            text = f"All {self.settings.max_connections} connections are in use."
            self._stop(plain_reply(503, text, headers=retry_headers(1.0)))

    def _body_too_large(self) -> ErrorReply:
        return plain_reply(413, f"The request's body exceeds the limit of {self.settings.max_body_bytes} bytes.")

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _stop(self, reply: ErrorReply) -> None:
        """Refuse from within the parser."""
        self._refuse(reply)
        raise _Stop

    def _refuse(self, reply: ErrorReply) -> None:
        """Answer, if no other answer has begun on this connection, and close it."""
        self._is_deaf = True
        self._wait(None)
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        is_busy = self.cycle is not None and not self.cycle.response_complete
        is_answered = self.cycle is not None and self.cycle.response_complete and self._state == "body"
        if is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing():
            return
        if is_answered or (is_busy and (self.cycle.response_started or self.pipeline or self._state != "body")):
            # This request has its answer, or an earlier one is waiting for its own: what we wrote would be taken for that.
            self.transport.abort()
            return
        self.telemetry.on_http_answer("other", "other", reply.status)
        logger.debug("refused at the edge: %d %s", reply.status, reply.message)
        self.transport.write(_bytes_of(reply, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS says goodbye itself
        self._wait(_LINGER_SECONDS, self.transport.abort)

    # --- writing ----------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads too slowly: let the route wait, but not for ever."""
        super().pause_writing()
        self._stalled_at = time.monotonic()
        self._write_timer = self.loop.call_later(self.settings.slow_reader_timeout_seconds, self._on_slow_reader)

    def resume_writing(self) -> None:
        """It reads again."""
        self._end_stall()
        super().resume_writing()
        self._limit_flush()

    def on_response_complete(self) -> None:
        """An answer is written; bytes of it may still wait for the client."""
        super().on_response_complete()
        self._limit_flush()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; if it never read its last answer, without waiting for it to."""
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _limit_flush(self) -> None:
        """A connection that is being closed goes when its last byte is read; a client that never reads it must not keep it."""
        if self.transport.is_closing() and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.slow_reader_timeout_seconds, self.transport.abort)

    def _end_stall(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._stalled_at is not None:
            self.telemetry.on_stall(time.monotonic() - self._stalled_at)
            self._stalled_at = None

    def _on_slow_reader(self) -> None:
        logger.info("a client that read nothing for %g seconds is cut off", self.settings.slow_reader_timeout_seconds)
        self.transport.abort()


def edge_protocol(settings: Settings, telemetry: Telemetry) -> type[EdgeProtocol]:
    """Return the protocol class for a server with these settings."""
    return type("EdgeProtocol", (EdgeProtocol,), {"settings": settings, "telemetry": telemetry})


def _bytes_of(reply: ErrorReply, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    head = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
    headers = {
        **{name.decode("latin-1"): value.decode("latin-1") for name, value in default_headers},
        "content-type": "application/json",
        "content-length": str(len(reply.content)),
        "connection": "close",
        **reply.headers,
    }
    return (head + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode(
        "latin-1"
    ) + reply.content

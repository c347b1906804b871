"""The front's end of a worker's socket: frames in, frames out, in the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tritserve.protocol import FrameReader, ProtocolError, decode_to_front, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritserve.protocol import ToFront, ToWorker


class WorkerLink(asyncio.Protocol):
    """Typed messages over one stream socket.

    ``on_message`` is called for each message and may raise ProtocolError. A Protocol rather than streams: a stream forgets
    what it has buffered when the peer's death resets the connection, and with it the last tokens and who was in the step.
    ``closed`` is done when nothing more will come; its result is the protocol error, if that was why.
    """

    def __init__(self, on_message: Callable[[ToFront], None]) -> None:
        self.closed: asyncio.Future[ProtocolError | None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Handle what is complete; the first wrong frame ends the link."""
        if self.closed.done():
            return
        try:
            for payload in self._frames.feed(data):
                self._on_message(decode_to_front(payload))
        except ProtocolError as error:
            self.closed.set_result(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone."""
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: ToWorker) -> None:
        """Send one message; what a dead worker does not take is lost, the journal has it. Admission bounds what can pile up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(message))

    def close(self) -> None:
        """Close the socket: an idle worker ends."""
        if self._transport is not None:
            self._transport.abort()

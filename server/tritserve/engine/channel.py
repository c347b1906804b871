"""The worker's end of the socket to the front: blocking when idle, polling when there is work."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from tritserve.protocol import FrameReader, ToFront, ToWorker, decode_to_worker, encode_frame

if TYPE_CHECKING:
    import socket

_RECEIVE_BYTES = 256 * 1024


class Closed(Exception):
    """The front is gone: there is nobody left to work for."""


class Channel:
    """Typed messages over one inherited stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, message: ToFront) -> None:
        """Send one message, waiting while the socket is full. Raises Closed."""
        try:
            self._socket.sendall(encode_frame(message))
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self, *, wait: bool) -> list[ToWorker]:
        """Return the messages that are there; with ``wait``, at least one. Raises Closed, ProtocolError."""
        messages: list[ToWorker] = []
        while self._poll.poll(None if wait and not messages else 0):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("the front closed the socket")
            messages += [decode_to_worker(payload) for payload in self._reader.feed(data)]
        return messages

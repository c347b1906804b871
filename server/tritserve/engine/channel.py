"""The worker's end of the socket to the front: blocking when idle, polling when there is work."""

from __future__ import annotations

import select
import threading
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
        self._sending = threading.Lock()

    def wake_by(self, fd: int) -> None:
        """Let ``receive`` end its waiting when another descriptor can be read; reading it is the caller's."""
        self._poll.register(fd, select.POLLIN)

    def send(self, message: ToFront) -> None:
        """Send one message, waiting while the socket is full. Any thread may. Raises Closed."""
        frame = encode_frame(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self, *, wait: bool) -> list[ToWorker]:
        """Return the messages that are there; with ``wait``, when there is one or the other descriptor can be read.

        Raises Closed, ProtocolError.
        """
        messages: list[ToWorker] = []
        timeout = None if wait else 0
        while self._socket.fileno() in dict(self._poll.poll(timeout)):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("the front closed the socket")
            messages += [decode_to_worker(payload) for payload in self._reader.feed(data)]
            timeout = None if wait and not messages else 0
        return messages

"""The front's end of a worker's socket, on both event loops: the standard one, and the one that serves."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tritserve.pool.link import WorkerLink
from tritserve.protocol import FrameReader, Ping, Pong, decode_to_worker, encode_frame


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_messages_cross_both_ways_and_the_end_is_noticed(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    received: list[object] = []

    async def talk() -> None:
        answered = asyncio.Event()

        def on_message(message: object) -> None:
            received.append(message)
            answered.set()

        link = WorkerLink(on_message)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: link, sock=ours)
        link.send(Ping(7))
        data = await asyncio.to_thread(theirs.recv, 65536)
        received.extend(decode_to_worker(payload) for payload in FrameReader().feed(data))
        theirs.sendall(encode_frame(Pong(7)))
        await answered.wait()
        theirs.close()
        assert await link.closed is None

    with theirs:
        run(talk())
    assert received == [Ping(7), Pong(7)]

"""What must stay quick and quiet while the engine is busy or held: probes, metrics, other readers; and the sockets there are."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from live_answers import ask, read, request_of
from live_server import eventually

if TYPE_CHECKING:
    from conftest import Start
    from live_server import LiveServer

LONG = [300 + index % 700 for index in range(900)]


def test_probes_and_metrics_do_not_wait_for_the_engine(start: Start) -> None:
    """Sixteen long prompts are in the engine, which is stopped dead: whoever waited for it would wait for ever."""
    with start("--kv-cache-bytes", str(64 * 2**20)) as server, server.http() as client:
        with ThreadPoolExecutor(16) as threads:
            bodies = [request_of(i, prompt=[i + 1, *LONG], max_tokens=2) for i in range(16)]
            os.kill(server.workers()[0], signal.SIGSTOP)
            asked = [threads.submit(ask, client, body) for body in bodies]
            eventually(lambda: server.metric("requests_waiting") == 16, "sixteen waiting")
            for path in ("/health", "/ready", "/version", "/metrics", "/props", "/v1/models"):
                assert client.get(path, timeout=5).status_code == 200
            os.kill(server.workers()[0], signal.SIGCONT)
            assert all(answer.result().token_ids for answer in asked)
        server.settle()


def test_a_reader_that_stops_holds_back_only_itself(live: LiveServer) -> None:
    body = b'{"prompt": "Once", "max_tokens": 1000, "n": 8, "ignore_eos": true, "logprobs": 20, "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as lazy, live.http() as client:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(head % len(body) + body)
        assert lazy.recv(15) == b"HTTP/1.1 200 OK"
        whole = ask(client, request_of(0))
        for _ in range(5):
            assert read(client, request_of(0)) == whole
    live.settle()


def test_one_listening_port_no_unix_listener_no_datagram_socket(live: LiveServer) -> None:
    with live.http() as client:
        ask(client, request_of(0))
    listening = [row[1].split(":")[1] for table in ("tcp", "tcp6") for row in live.sockets(table) if row[3] == "0A"]
    assert listening == [f"{live.port:04X}"]
    assert live.sockets("udp") == live.sockets("udp6") == []
    accepts_connections = 0x10000
    unix = live.sockets("unix")
    assert not [row for row in unix if int(row[3], 16) & accepts_connections]
    assert not [row for row in unix if len(row) > 7]  # none has a name that somebody could connect to

"""Raw bytes against the edge: every limit answers, closes and is counted; nothing ambiguous gets through."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from live_edge import BIG_BYTES, App, Live, error_code, live, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

TIGHT: dict[str, Any] = {
    "max_header_bytes": 1024,
    "max_headers": 8,
    "max_body_bytes": 2048,
    "header_timeout_seconds": 0.3,
    "body_idle_timeout_seconds": 0.3,
}
HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def edge() -> Iterator[Live]:
    with live(**TIGHT) as server:
        yield server


def refused(edge: Live, data: bytes) -> tuple[int, str]:
    """Send; the server must answer once and close, without the application having seen a request."""
    seen = len(edge.app.paths)
    found = edge.ask(data)
    assert len(found) == 1, found
    assert len(edge.app.paths) == seen
    return found[0][0], error_code(found[0][1])


def padded_head(num_bytes: int) -> bytes:
    """A whole head of exactly so many bytes."""
    start, end = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ", b"\r\n\r\n"
    return start + b"a" * (num_bytes - len(start) - len(end)) + end


def test_head_of_the_limit_passes_and_one_byte_more_is_431(edge: Live) -> None:
    assert edge.ask(padded_head(1024)) == [(200, b"0")]
    assert refused(edge, padded_head(1025)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000,
        b"GET /" + b"a" * 2_000_000,
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100_000,
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + b"X" * 2_000_000,
        b"\r\n" * 100_000,
    ],
    ids=["value", "url", "lines", "name", "empty lines"],
)
def test_endless_head_is_431_however_it_grows(edge: Live, data: bytes) -> None:
    assert refused(edge, data) == (431, "headers_too_large")


def test_head_that_trickles_is_counted_over_its_pieces(edge: Live) -> None:
    with edge.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.sendall(b"GET /echo HTTP/1.1\r\nX: ")
            for _ in range(2000):
                sock.sendall(b"a")
        except (BrokenPipeError, ConnectionResetError):
            pass
        found = edge.finish(sock)
    assert [status for status, _ in found] == [431]


def test_number_of_headers_is_bounded(edge: Live) -> None:
    lines = [b"X%d: y\r\n" % i for i in range(7)]
    assert edge.ask(HEAD + b"".join(lines[:5]) + b"Content-Length: 0\r\nConnection: close\r\n\r\n") == [(200, b"0")]
    assert refused(edge, HEAD + b"".join(lines) + b"Content-Length: 0\r\n\r\n") == (431, "headers_too_large")


@pytest.mark.parametrize("sent", [b"G", b"GET /echo HTTP/1.1\r\nHost: loc", b"\r\n"])
def test_head_that_never_ends_is_408(edge: Live, sent: bytes) -> None:
    assert refused(edge, sent) == (408, "request_timeout")


def test_connection_that_never_speaks_is_closed(edge: Live) -> None:
    assert edge.ask(b"") == []


def test_head_deadline_holds_for_the_second_request_too(edge: Live) -> None:
    found = edge.ask(HEAD + b"Content-Length: 0\r\n\r\nGET /ec")
    assert [status for status, _ in found] == [200, 408]


def test_body_that_stops_is_408_and_the_route_hears_of_it() -> None:
    with live(**TIGHT) as edge:
        found = edge.ask(HEAD + b"Content-Length: 100\r\n\r\nabc")
        assert [(status, error_code(body)) for status, body in found] == [(408, "request_timeout")]
        assert edge.app.client_left.wait(10)
        assert edge.count(408) == 1


def test_declared_body_over_the_limit_is_413_before_it_is_sent(edge: Live) -> None:
    assert refused(edge, HEAD + b"Content-Length: 2049\r\n\r\n") == (413, "body_too_large")


def test_body_of_the_limit_passes(edge: Live) -> None:
    body = HEAD + b"Connection: close\r\nContent-Length: 2048\r\n\r\n" + b"a" * 2048
    assert edge.ask(body) == [(200, b"2048")]


def test_chunked_body_is_counted_while_it_streams() -> None:
    with live(**TIGHT) as edge:
        chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"a" * 1024 + b"\r\n"
        assert edge.ask(chunks + b"400\r\n" + b"a" * 1024 + b"\r\n" + b"1\r\na\r\n")[0][0] == 413
        assert edge.app.client_left.wait(10)


def test_hundred_megabytes_are_refused_with_an_answer(edge: Live) -> None:
    found = edge.ask(HEAD + b"Content-Length: 100000000\r\n\r\n" + b"a" * 100_000_000)
    assert [(status, error_code(body)) for status, body in found] == [(413, "body_too_large")]


@pytest.mark.parametrize(
    "rest",
    [
        b"1;" + b"x" * 1_000_000,
        b"0\r\n" + b"X: y\r\n" * 100_000,
        b"0\r\nX: " + b"y" * 1_000_000,
    ],
    ids=["chunk extension", "trailers", "trailer"],
)
def test_endless_framing_of_a_body_is_cut(rest: bytes) -> None:
    with live(**TIGHT) as edge:
        found = edge.ask(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
        assert [status for status, _ in found] == [413]


def test_many_tiny_chunks_within_the_limit_pass(edge: Live) -> None:
    data = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2000 + b"0\r\n\r\n"
    assert edge.ask(data) == [(200, b"2000")]


def test_trailers_do_not_become_headers() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    class Headers(App):
        async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
            await super().__call__(scope, receive, send)
            seen.append(scope["headers"])

    with live(Headers()) as edge:
        data = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Api-Key: k\r\n\r\n"
        assert edge.ask(data) == [(200, b"1")]
    assert b"x-api-key" not in dict(seen[0])


@pytest.mark.parametrize(
    "head",
    [
        b"POST /echo HTTP/1.1\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n",
        HEAD + b"Content-Length: 3, 3\r\n",
        HEAD + b"Content-Length: +3\r\n",
        HEAD + b"Content-Length: 0x3\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n",
        HEAD + b"Transfer-Encoding: chunked, chunked\r\n",
        HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n",
        HEAD + b" Transfer-Encoding: chunked\r\n",
        b"POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        HEAD + b"X: a\r\n b\r\n",
        HEAD + b"X: a\rb\r\n",
        HEAD + b"X: a\x00b\r\n",
        HEAD + b"X y: a\r\n",
        HEAD.replace(b"\r\n", b"\n"),
        b"post /echo HTTP/1.1\r\nHost: a\r\n",
        b"__INIT__ /echo HTTP/1.1\r\nHost: a\r\n",
        b"M" * 1000 + b" /echo HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n",
        b"POST /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n",
        b"POST /echo HTTP/1.2\r\nHost: a\r\n",
        b"POST /echo HTTP/3.0\r\nHost: a\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        b"POST http://elsewhere HTTP/1.1\r\nHost: a\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_ambiguous_or_broken_head_is_400_and_reaches_nobody(edge: Live, head: bytes) -> None:
    assert refused(edge, head + b"\r\n0\r\n\r\n") == (400, "bad_request")


def test_other_http_versions_are_505(edge: Live) -> None:
    assert refused(edge, b"POST /echo HTTP/2.0\r\nHost: a\r\n\r\n") == (505, "http_version_not_supported")


@pytest.mark.parametrize(
    "rest", [b"3\r\nabcX\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"zz\r\n", b"-1\r\n", b"fffffffffffffffff\r\n"]
)
def test_broken_chunks_are_400(rest: bytes) -> None:
    with live(**TIGHT) as edge:
        found = edge.ask(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
        assert [(status, error_code(body)) for status, body in found] == [(400, "bad_request")]


def test_what_follows_the_last_request_is_ignored(edge: Live) -> None:
    assert edge.ask(LAST + LAST) == [(200, b"0")]


def test_pipelined_requests_are_answered_in_order(edge: Live) -> None:
    data = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % n + b"a" * n for n in (1, 2, 3))
    assert edge.ask(data + LAST) == [(200, b"1"), (200, b"2"), (200, b"3"), (200, b"0")]


def test_requests_cut_anywhere_are_answered_alike(edge: Live) -> None:
    data = (
        HEAD + b"Content-Length: 2\r\n\r\naa" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST
    )
    for cut in range(1, len(data)):
        with edge.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(data[:cut])
            assert edge.finish(sock, data[cut:]) == [(200, b"2"), (200, b"1"), (200, b"0")], cut


def test_garbage_behind_a_request_in_progress_cannot_pose_as_its_answer() -> None:
    with live(**TIGHT) as edge:
        assert edge.ask(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n\x00\x00") == []
        assert edge.app.client_left.wait(10)


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_offer_of_another_protocol_is_declined_and_the_request_answered(
    edge: Live, body: bytes, protocol: bytes
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    assert edge.ask(HEAD + upgrade + body + LAST) == [(200, b"3")]


def test_offer_of_another_protocol_lifts_no_limit(edge: Live) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    assert refused(edge, HEAD + upgrade + b"Content-Length: 9999\r\n\r\n") == (413, "body_too_large")
    assert refused(edge, b"GET / HTTP/1.1\r\n" + upgrade + b"\r\n") == (400, "bad_request")


def test_body_behind_an_early_answer_is_bounded_too(edge: Live) -> None:
    with edge.connect() as sock:
        sock.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert sock.recv(65536).endswith(b"early")
        assert edge.finish(sock, b"5\r\naaaaa\r\n" * 1000) == []  # closed, without a second answer


def test_client_that_leaves_is_noticed_while_the_route_waits() -> None:
    with live() as edge:
        with edge.connect() as sock:
            sock.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            assert edge.app.began.wait(10)
        assert edge.app.client_left.wait(10)


def test_slow_reader_holds_back_its_stream_and_is_cut_off_and_counted() -> None:
    with live(write_buffer_bytes=4096, slow_reader_timeout_seconds=0.3) as edge, edge.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.client_left.wait(20)  # without having read a byte
        assert (
            edge.app.bytes_streamed < 16 * 1024 * 1024
        )  # what the kernel's buffers take, not what the route could make
        stalls = edge.telemetry.registry.get_sample_value("tritserve_stream_stall_seconds_sum", {"model": "demo"})
        assert stalls is not None
        assert stalls >= 0.25  # 0.3, less the grain of the loop's clock


def test_reader_that_wakes_up_in_time_is_served_on() -> None:
    with live(write_buffer_bytes=4096, slow_reader_timeout_seconds=60) as edge, edge.connect() as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert edge.app.stalled.wait(20)
        received = 0
        while received < 30_000_000:  # more than any buffer on the way holds: it goes on
            received += len(sock.recv(1 << 20))
    count = edge.telemetry.registry.get_sample_value("tritserve_stream_stall_seconds_count", {"model": "demo"})
    assert count is not None
    assert count >= 1


@pytest.mark.parametrize("keep", [b"close", b"keep-alive"])
def test_whole_answer_that_nobody_reads_is_cut_off_too(keep: bytes) -> None:
    with live(slow_reader_timeout_seconds=0.3) as edge, edge.connect() as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: " + keep + b"\r\n\r\n")
        assert edge.app.began.wait(10)
        edge.until_connections(0)
        assert len(read_all(sock)) < BIG_BYTES


def test_body_that_trickles_for_longer_than_a_request_may_take_is_408() -> None:
    with live(body_idle_timeout_seconds=20, request_timeout_seconds=0.3) as edge, edge.connect() as sock:
        sock.sendall(HEAD + b"Content-Length: 100\r\n\r\na")
        found = edge.finish(sock, b"a")
        assert [(status, error_code(body)) for status, body in found] == [(408, "request_timeout")]


def test_connections_are_bounded_but_health_checks_still_get_in() -> None:
    with live(max_connections=2) as edge, edge.connect() as one, edge.connect() as two:
        for sock in (one, two):
            sock.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        while len(edge.app.paths) < 2:
            edge.app.began.wait(10)
        found = edge.ask(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [(status, error_code(body)) for status, body in found] == [(503, "unavailable")]
        assert edge.ask(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == [(200, b"0")]
        assert edge.count(503) == 1


def test_refusals_carry_no_more_than_they_must(edge: Live) -> None:
    with edge.connect() as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        data = read_all(sock).lower()
    assert b"connection: close" in data
    assert b"server:" not in data
    assert b"uvicorn" not in data

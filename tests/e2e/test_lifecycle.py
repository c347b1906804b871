"""Loading, full, draining, out of time, abandoned: what a client is told, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from live_answers import ask, events, request_of
from live_server import LiveServer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from conftest import Start

ENDLESS = request_of(0, max_tokens=1000)
SMALL_KV = ("--kv-cache-bytes", str(16 * 2**20))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of an answer, which must have OpenAI's shape."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_requests_are_refused_with_503_while_the_model_is_loaded(model_cache: Path, tmp_path: Path) -> None:
    with LiveServer(model_cache, *SMALL_KV, log_path=tmp_path / "log", wait=False) as server, server.http() as client:
        # The first worker is held before it can say that it is ready.
        eventually(lambda: bool(server.workers()), "a worker process")
        worker = server.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        ready = client.get("/ready")
        assert (ready.status_code, client.get("/health").status_code) == (503, 200)
        assert "loading" in ready.json()["reason"]
        for path, body in (
            ("/v1/completions", request_of(0)),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True}),
        ):
            refused = client.post(path, json=body)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        assert server.metric("ready") == 0
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: client.get("/ready").status_code == 200, "ready")
        assert ask(client, request_of(0)).text


def test_a_full_queue_answers_429_at_once_and_says_when_to_come_back(start: Start) -> None:
    with start(*SMALL_KV, "--queue-limit", "2") as server, server.http() as client:
        with ExitStack() as held:
            for _ in range(2):
                held.enter_context(client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}))
            for stream in (False, True):
                refused = client.post("/v1/completions", json={**ENDLESS, "stream": stream})
                assert refused.status_code == 429
                assert error_of(refused)["code"] == "queue_full"
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                assert 1 <= int(refused.headers["retry-after-ms"]) <= 60_000
                assert refused.headers["x-ratelimit-remaining-requests"] == "0"
                assert refused.elapsed.total_seconds() < 5  # not after the streams that were in its way
        assert server.metric("requests_rejected_total", reason="queue_full") == 2
        server.settle()
        assert ask(client, request_of(0)).text


def test_sigterm_lets_a_running_stream_finish_and_refuses_new_work_with_the_listener_open(start: Start) -> None:
    server = start(*SMALL_KV)
    pids = server.processes()
    with server.http() as client, client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as stream:
        pieces = events(stream)
        next(pieces)
        os.kill(server.workers()[0], signal.SIGSTOP)  # the stream cannot end before we have looked
        server.terminate()
        eventually(lambda: client.get("/ready").status_code == 503, "draining")
        assert "draining" in client.get("/ready").json()["reason"]
        assert client.get("/health").status_code == 200
        refused = client.post("/v1/completions", json=ENDLESS)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
        assert "retry-after" in refused.headers
        os.kill(server.workers()[0], signal.SIGCONT)
        rest = list(pieces)  # ends with [DONE]
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0
    assert all(map(is_gone, pids))


def test_what_outlasts_the_drain_ends_with_an_error_frame_and_status_0(start: Start) -> None:
    server = start(*SMALL_KV, "--drain-timeout-seconds", "0.2")
    pids = server.processes()
    with server.http() as client, client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as stream:
        lines = (line for line in stream.iter_lines() if line)
        next(lines)
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.terminate()
        rest = list(lines)
    assert '"error"' in rest[-1]
    assert "shutting down" in rest[-1]
    assert "[DONE]" not in "".join(rest)
    assert server.wait() == 0
    assert all(map(is_gone, pids))


def test_second_signal_ends_what_still_runs(start: Start) -> None:
    server = start(*SMALL_KV)
    with server.http() as client, client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "draining" in server.log(), "draining")
        server.process.send_signal(signal.SIGINT)
        assert "[DONE]" not in "".join(lines)
    assert server.wait() == 0


def test_workers_do_not_outlive_a_server_that_is_killed(start: Start) -> None:
    server = start(*SMALL_KV)
    workers = server.workers()
    assert workers
    server.kill()
    eventually(lambda: all(map(is_gone, workers)), "no worker left")


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_the_answer_with_what_it_has(live: LiveServer, stream: bool) -> None:
    timeouts = live.metric("requests_total", outcome="timeout")
    body = {**ENDLESS, "prompt": "Once upon a time", "n": 8, "timeout": 0.3, "stream": stream}
    with live.http() as client, client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        answers = list(events(response)) if stream else [_json(response)]
    last = {choice["index"]: choice for answer in answers for choice in answer["choices"]}
    assert {(choice["finish_reason"], choice["stop_reason"]) for choice in last.values()} == {("length", "timeout")}
    live.settle()
    assert live.metric("requests_total", outcome="timeout") == timeouts + 1


def test_a_stream_closed_while_its_worker_is_dead_holds_no_blocks(start: Start) -> None:
    with start(*SMALL_KV) as server, server.http() as client:
        with client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True, "n": 8}) as stream:
            lines = stream.iter_lines()  # kept: the client closes a stream whose iterator is dropped
            next(lines)
            eventually(lambda: server.metric("kv_cache_used_bytes") > 0, "blocks in use")
            os.kill(server.workers()[0], signal.SIGKILL)
            eventually(lambda: server.metric("worker_restarts_total") == 1, "the death is noticed")
        server.settle()


def _json(response: httpx.Response) -> Any:
    response.read()
    return response.json()

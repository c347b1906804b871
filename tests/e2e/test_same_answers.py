"""The same request gives the same tokens and log-probabilities, whatever goes on around it."""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from live_answers import Bits, ask, read, request_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from conftest import Start
    from live_server import LiveServer

NUM_REQUESTS = 6


@pytest.fixture
def client(live: LiveServer) -> Iterator[httpx.Client]:
    with live.http() as client:
        yield client


@pytest.fixture(scope="module")
def alone(shared: LiveServer) -> list[Bits]:
    """Every request's answer when nothing else runs."""
    with shared.http() as client:
        return [ask(client, request_of(index)) for index in range(NUM_REQUESTS)]


def test_compared_answers_have_what_is_compared(alone: list[Bits]) -> None:
    for bits in alone:
        assert len(bits.token_ids) == len(bits.token_logprobs) == len(bits.top_logprobs) == 48
        assert bits.text
    assert len({bits.text for bits in alone}) == NUM_REQUESTS


def test_streamed_answer_is_the_whole_one(client: httpx.Client, alone: list[Bits]) -> None:
    assert [read(client, request_of(index)) for index in range(NUM_REQUESTS)] == alone


def test_answer_among_sixteen_others_is_the_one_alone(
    live: LiveServer, client: httpx.Client, alone: list[Bits]
) -> None:
    with ThreadPoolExecutor(16 + NUM_REQUESTS) as threads:
        others = [
            threads.submit(read, client, request_of(100 + index, max_tokens=120, temperature=1.3))
            for index in range(16)
        ]
        asked = [threads.submit(read, client, request_of(index)) for index in range(NUM_REQUESTS)]
        assert [answer.result() for answer in asked] == alone
        for other in others:
            other.result()
    assert live.metric("engine_batch_size_sum") > 0


def test_answer_with_a_cached_prefix_is_the_cold_one(client: httpx.Client) -> None:
    body = request_of(4, cache_salt="a salt that nothing was cached under")
    cold, warm = (client.post("/v1/completions", json=body).json() for _ in range(2))
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16
    assert warm["choices"] == cold["choices"]


def test_prompts_of_other_salts_are_not_found_in_the_cache(client: httpx.Client) -> None:
    client.post("/v1/completions", json=request_of(4, cache_salt="mine"))
    other = client.post("/v1/completions", json=request_of(4, cache_salt="yours")).json()
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("arguments", [("--isa", "ref", "--threads", "1"), ("--threads", "1")], ids=" ".join)
def test_answer_does_not_depend_on_kernels_and_threads(
    start: Start, alone: list[Bits], arguments: tuple[str, ...]
) -> None:
    with start(*arguments, "--kv-cache-bytes", str(32 * 2**20)) as server, server.http() as client:
        assert [ask(client, request_of(index)) for index in range(NUM_REQUESTS)] == alone


def test_preempted_answer_is_the_undisturbed_one(start: Start, alone: list[Bits]) -> None:
    """Blocks for one and a half full contexts, and sixteen others that want them."""
    with start("--kv-cache-bytes", str(4 * 2**20)) as server, server.http() as client:
        with ThreadPoolExecutor(16 + NUM_REQUESTS) as threads:
            others = [threads.submit(read, client, request_of(100 + index, max_tokens=300)) for index in range(16)]
            asked = [threads.submit(read, client, request_of(index)) for index in range(NUM_REQUESTS)]
            assert [answer.result() for answer in asked] == alone
            crowded = [other.result() for other in others]
        assert server.metric("prefix_cache_evictions_total") > 0
        quiet = [ask(client, request_of(100 + index, max_tokens=300)) for index in range(16)]
        server.settle()
    assert crowded == quiet


class Killer:
    """Kills the worker, with no chance to say goodbye, whenever a random number of pieces has arrived since its predecessor's death."""

    def __init__(self, server: LiveServer, num_kills: int) -> None:
        self.num_left = num_kills
        self._server = server
        self._lock = threading.Lock()
        self._random = random.Random(num_kills)
        self._victim = 0
        self._pieces_left = 5

    def on_token(self) -> None:
        with self._lock:
            self._pieces_left -= 1
            if self.num_left == 0 or self._pieces_left > 0:
                return
            workers = [pid for pid in self._server.workers() if pid != self._victim]
            if workers:
                self._victim = workers[0]
                self._pieces_left = self._random.randint(1, 40)
                self.num_left -= 1
                os.kill(self._victim, signal.SIGKILL)


def _storm(server: LiveServer, num_kills: int, max_tokens: int) -> None:
    """Kill workers under eight streams, round after round; then ask the same again in peace."""
    killer = Killer(server, num_kills)
    seen: list[tuple[int, Bits]] = []
    first = 0
    with server.http() as client, ThreadPoolExecutor(8) as threads:
        while killer.num_left:
            indexes = range(first, first + 8)
            bodies = [request_of(index, max_tokens=max_tokens) for index in indexes]
            answers = [threads.submit(read, client, body, killer.on_token) for body in bodies]
            seen += zip(indexes, (answer.result() for answer in answers), strict=True)
            first += 8
        assert server.metric("worker_restarts_total", reason="crash") == num_kills
        assert server.metric("requests_resumed_total") > 0
        assert server.metric("requests_total", outcome="error") == 0
        server.settle()
        for index, bits in seen:
            assert ask(client, request_of(index, max_tokens=max_tokens)) == bits, f"request {index}"


def test_killed_worker_costs_a_pause_and_nothing_else(start: Start, alone: list[Bits]) -> None:
    with start("--kv-cache-bytes", str(32 * 2**20)) as server, server.http() as client:
        killer = Killer(server, 1)
        assert read(client, request_of(0), killer.on_token) == alone[0]
        assert killer.num_left == 0
        killer = Killer(server, 1)
        whole = request_of(1, max_tokens=900)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, client, whole)  # not streamed: killed under it by another's tokens
            read(client, request_of(2, max_tokens=900), killer.on_token)
            assert waiting.result().token_ids[:48] == alone[1].token_ids
        assert server.metric("worker_restarts_total") == 2
        server.settle()


def test_ten_kills_under_eight_streams_lose_repeat_and_change_no_token(start: Start) -> None:
    with start("--kv-cache-bytes", str(64 * 2**20)) as server:
        _storm(server, 10, max_tokens=200)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_under_eight_streams_lose_repeat_and_change_no_token(start: Start) -> None:
    with start("--kv-cache-bytes", str(64 * 2**20)) as server:
        _storm(server, 100, max_tokens=400)

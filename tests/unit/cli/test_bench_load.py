"""`tritserve bench --url`: what is sent, what is counted, and the arithmetic of a row."""

import asyncio
import json

import httpx
import pytest
from typer.testing import CliRunner

from tritserve.cli.bench import app
from tritserve.cli.bench_load import Answer, Load, level_row, measure, percentiles, require_no_failures
from tritserve.errors import ServerError, SettingsError


def piece(**fields: object) -> str:
    return "data: " + json.dumps({"choices": [], **fields}) + "\n\n"


class Server:
    """Answers as an OpenAI-compatible server; every third request fails if ``faulty``."""

    def __init__(self, *, faulty: bool = False) -> None:
        self.bodies: list[dict[str, object]] = []
        self._faulty = faulty

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
        if request.url.path == "/props":
            return httpx.Response(404)
        body = json.loads(request.content)
        self.bodies.append(body)
        if self._faulty and len(self.bodies) % 3 == 0:
            return httpx.Response(429, json={"error": {"message": "the queue is full"}})
        text = "".join(piece(choices=[{"text": "x"}]) for _ in range(body["max_tokens"]))
        usage = piece(usage={"prompt_tokens": len(body["prompt"].split()), "completion_tokens": body["max_tokens"]})
        return httpx.Response(200, text=f": keep-alive\n\n{text}{usage}data: [DONE]\n\n")


def run(server: Server, load: Load, model: str | None = None) -> dict[str, object]:
    async def load_it() -> dict[str, object]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://server") as client:
            return await measure(client, model, load, lambda what: None)

    return asyncio.run(load_it())


def test_every_level_counts_its_requests_and_their_tokens_but_not_the_warm_up() -> None:
    server = Server()
    report = run(server, Load(concurrency=(1, 3), num_requests=5, num_words=7, num_tokens=6))
    assert [
        (row["concurrency"], row["requests"], row["failed"], row["prompt_tokens"], row["output_tokens"])
        for row in report["rows"]
    ] == [(1, 5, 0, 35, 30), (3, 5, 0, 35, 30)]
    assert len(server.bodies) == (5 + 1) + (5 + 3)
    assert report["model"] == "tiny"
    assert report["server"] is None
    json.dumps(report)


def test_every_prompt_is_its_own_and_answers_cannot_end_early() -> None:
    server = Server()
    run(server, Load(concurrency=(2,), num_requests=4, num_words=30, num_tokens=6), model="named")
    assert len({body["prompt"] for body in server.bodies}) == len(server.bodies)
    assert all(body["ignore_eos"] is True and body["model"] == "named" for body in server.bodies)


def test_failed_requests_are_counted_named_and_leave_the_rates() -> None:
    report = run(Server(faulty=True), Load(concurrency=(1,), num_requests=5, num_words=3, num_tokens=4))
    (row,) = report["rows"]
    assert (row["requests"], row["failed"], row["output_tokens"]) == (5, 2, 12)  # of six with the warm-up: 3rd and 6th
    assert "429" in row["errors"][0]
    assert "the queue is full" in row["errors"][0]
    with pytest.raises(ServerError, match=r"2 of 5 requests failed.*the queue is full"):
        require_no_failures(report)


def test_an_answer_that_is_no_stream_of_pieces_is_a_failure_not_a_crash() -> None:
    class Broken(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = super().__call__(request)
            return httpx.Response(200, text="data: {}\n\n") if request.url.path == "/v1/completions" else answer

    (row,) = run(Broken(), Load(concurrency=(1,), num_requests=2, num_words=3, num_tokens=4))["rows"]
    assert row["failed"] == 2
    assert row["ttft_seconds"] is None


def test_a_row_has_the_times_as_telemetry_defines_them() -> None:
    answers = [
        Answer(piece_times=[0.5, 0.6, 0.8], num_prompt_tokens=10, num_tokens=4),  # the last piece held two tokens
        Answer(piece_times=[1.5], num_prompt_tokens=10, num_tokens=1),
        Answer(piece_times=[0.1], error="429"),
    ]
    row = level_row(2, answers, 2.0)
    assert row["output_tokens_per_second"] == 2.5
    assert row["requests_per_second"] == 1.0
    assert row["ttft_seconds"] == {"p50": 0.5, "p95": 1.5, "p99": 1.5, "max": 1.5}
    assert row["tpot_seconds"] == {"p50": 0.1, "p95": 0.1, "p99": 0.1, "max": 0.1}
    assert row["itl_seconds"] == {"p50": 0.1, "p95": 0.2, "p99": 0.2, "max": 0.2}


def test_percentiles_are_the_smallest_value_that_the_share_does_not_exceed() -> None:
    found = percentiles([float(value) for value in range(200, 0, -1)])
    assert found == {"p50": 100.0, "p95": 190.0, "p99": 198.0, "max": 200.0}


def test_what_only_the_server_can_choose_is_refused() -> None:
    for flags in (["--shape", "tiny"], ["--threads", "2"], ["--isa", "ref"]):
        result = CliRunner().invoke(app, ["--url", "http://127.0.0.1:9", *flags])
        assert isinstance(result.exception, SettingsError), result.output


def test_a_url_where_nothing_answers_is_a_clear_error() -> None:
    for url in ("http://127.0.0.1:9", "127.0.0.1:9", "http://["):
        result = CliRunner().invoke(app, ["--url", url, "--json"])
        assert isinstance(result.exception, ServerError), result.output
        assert url in str(result.exception)

"""What telemetry hears of a request: one record whatever happens, and clocks that start and stop where metrics say."""

from __future__ import annotations

from typing import Any

import pytest
from byte_front import EOS, byte_front, http_client
from scripted_pool import ScriptedPool, say, scripted
from starlette.requests import Request

from tritserve.api.meter import Meter
from tritserve.errors import Overloaded, Unavailable, WorkerFailed

HI = {"messages": [{"role": "user", "content": "Hi"}]}


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def metered(clock: Clock) -> tuple[Meter, Any]:
    """Return the meter of a request that was received at 90."""
    front = byte_front(ScriptedPool())
    request = Request({"type": "http", "state": {"request_id": "r1", "key_name": "ann", "received_at": 90.0}})
    return Meter(front.telemetry, "chat", "tiny", request, clock), front


def test_clocks_start_at_the_full_request_and_gaps_belong_to_their_choice() -> None:
    clock = Clock()
    meter, front = metered(clock)
    meter.expect(2)
    for choice, now in [(0, 101.0), (1, 101.5), (0, 102.0), (1, 104.5), (0, 105.0)]:
        clock.now = now
        meter.token(choice)
    clock.now = 110.0
    meter.finished("stop", timed_out=False)
    meter.finished("length", timed_out=False)
    meter.close()
    meter.close()
    (record,) = front.records
    assert front.memory.first_tokens == [("chat", 11.0)]
    assert front.memory.gaps == [1.0, 3.0, 3.0]
    assert (record.request_id, record.key_name, record.model) == ("r1", "ann", "tiny")
    assert (record.ttft_seconds, record.duration_seconds) == (11.0, 20.0)
    assert record.tpot_seconds == (4.0 / 2 + 3.0 / 1) / 2
    assert (record.outcome, record.finish_reasons, record.num_generated_tokens) == ("length", ("stop", "length"), 5)


@pytest.mark.parametrize(
    ("reasons", "outcome"),
    [
        ([("stop", False), ("stop", False)], "stop"),
        ([("stop", False), ("length", False)], "length"),
        ([("length", False), ("stop", False)], "length"),
        ([("length", True), ("stop", False)], "timeout"),
        ([("stop", False), ("length", True)], "timeout"),
        ([("length", True), ("length", False)], "timeout"),
        ([("stop", False)], "cancelled"),
    ],
)
def test_several_choices_have_one_outcome(reasons: list[tuple[str, bool]], outcome: str) -> None:
    meter, front = metered(Clock())
    meter.expect(2)
    for reason, timed_out in reasons:
        meter.finished(reason, timed_out=timed_out)
    meter.close()
    assert [record.outcome for record in front.records] == [outcome]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_good_request_is_reported_whole(streams: bool) -> None:
    pool = ScriptedPool(scripted([*b"ab", EOS]), num_cached_tokens=4)
    front = byte_front(pool)
    async with http_client(front) as client:
        response = await client.post(
            "/chat/completions", json={**HI, "stream": streams, "n": 2}, headers={"x-request-id": "mine"}
        )
    (record,) = front.records
    assert response.headers["x-request-id"] == record.request_id == "mine"
    assert pool.requests[0].request_id == "mine"
    assert (record.endpoint, record.outcome, record.stream, record.num_choices) == ("chat", "stop", streams, 2)
    assert record.finish_reasons == ("stop", "stop")
    assert (record.num_prompt_tokens, record.num_cached_tokens, record.num_generated_tokens) == (9, 4, 6)
    assert record.queue_seconds == 0.25
    assert record.ttft_seconds is not None
    assert 0 <= record.ttft_seconds <= record.duration_seconds
    assert (record.error_code, record.reject_reason) == ("", None)
    assert len(front.memory.first_tokens) == 1
    assert len(front.memory.gaps) == 4


@pytest.mark.parametrize(
    ("body", "refusal", "expected"),
    [
        (b'{"n": 0}', None, ("rejected", "invalid", "invalid_value")),
        (b"{", None, ("rejected", "invalid", "invalid_json")),
        (b'{"prompt": "a", "model": "b"}', None, ("rejected", "invalid", "model_not_found")),
        (b'{"prompt": "aaaaaaaaaaaaaaaa"}', None, ("rejected", "too_long", "context_length_exceeded")),
        (
            b'{"prompt": "a"}',
            Overloaded("Full.", reason="tokens_full", retry_after_seconds=1.0),
            ("rejected", "tokens_full", "tokens_full"),
        ),
        (b'{"prompt": "a"}', Unavailable("Draining."), ("rejected", "draining", "unavailable")),
        (b'{"prompt": "a"}', WorkerFailed("Poison."), ("error", None, "worker_failed")),
    ],
)
async def test_a_refused_request_is_reported_once_with_the_reason(body: bytes, refusal: Any, expected: Any) -> None:
    pool = ScriptedPool(max_model_len=16)
    pool.refusal = refusal
    front = byte_front(pool)
    async with http_client(front) as client:
        await client.post("/completions", content=body, headers={"content-type": "application/json"})
    (record,) = front.records
    assert (record.outcome, record.reject_reason, record.error_code) == expected
    assert (record.endpoint, record.num_generated_tokens, record.ttft_seconds) == ("completions", 0, None)


async def test_a_failure_in_the_middle_is_an_error_not_a_refusal() -> None:
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), Unavailable("No worker can start.")])
    front = byte_front(pool)
    async with http_client(front) as client:
        assert (await client.post("/chat/completions", json=HI)).status_code == 503
    (record,) = front.records
    assert (record.outcome, record.reject_reason, record.num_generated_tokens) == ("error", None, 1)


async def test_no_record_holds_text_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    front = byte_front(ScriptedPool())
    body = {"messages": [{"role": "user", "content": "xyzzy"}], "user": "plugh", "max_tokens": 2}
    async with http_client(front) as client:
        await client.post("/chat/completions", json=body)
    shown = repr(front.records) + "".join(repr(record.__dict__) for record in caplog.records if record.name != "httpx")
    assert "xyzzy" not in shown
    assert "plugh" not in shown


def test_clock_starts_when_the_body_is_complete_not_when_its_head_arrives() -> None:
    front = byte_front(ScriptedPool())
    request = Request({"type": "http", "state": {"request_id": "r1", "key_name": "", "received_at": 90.0}})
    meter = Meter(front.telemetry, "chat", "tiny", request, lambda: 100.0)
    request.state.received_at = 98.0  # as the last piece of the body does
    meter.expect(1)
    meter.token(0)
    meter.close()
    assert front.memory.first_tokens == [("chat", 2.0)]
    assert front.records[0].duration_seconds == 2.0

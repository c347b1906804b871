"""How streams behave on a connection: back-pressure, silence, clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgi_exchange import exchange
from byte_front import EOS, byte_front
from scripted_pool import ScriptedPool, say, scripted

from tritserve.api.app import create_app
from tritserve.errors import NumericFault, RequestAborted, WorkerFailed
from tritserve.pool.generation import PromptScores

CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
TEXT = ("/v1/completions", {"prompt": "Hi"})
ENDPOINTS = pytest.mark.parametrize(("path", "body"), [CHAT, TEXT], ids=["chat", "text"])


async def settle(condition: Any) -> None:
    """Let the event loop run until ``condition()`` holds; it must come about without time passing."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come about")


@ENDPOINTS
@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_leaves_stops_its_generation(path: str, body: dict[str, Any], streams: bool) -> None:
    pool = ScriptedPool(lambda request: say(0, [*b"abc"], None))
    front = byte_front(pool)
    async with exchange(create_app(front), path, {**body, "stream": streams}) as (client, task):
        await pool.submitted.wait()
        await settle(lambda: pool.generations[0].num_read == 3)
        client.leave()
        await asyncio.wait([task])
    assert pool.generations[0].was_aborted
    (record,) = front.records
    assert (record.outcome, record.num_generated_tokens, record.stream) == ("cancelled", 3, streams)
    assert "error" not in client.text or not streams


@ENDPOINTS
@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancelled_handler_stops_its_generation(path: str, body: dict[str, Any], streams: bool) -> None:
    pool = ScriptedPool(lambda request: say(0, [*b"abc"], None))
    front = byte_front(pool)
    async with exchange(create_app(front), path, {**body, "stream": streams}) as (_, task):
        await pool.submitted.wait()
        await settle(lambda: pool.generations[0].num_read == 3)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert pool.generations[0].was_aborted
    assert [record.outcome for record in front.records] == ["cancelled"]


@ENDPOINTS
async def test_a_connection_that_breaks_stops_its_generation(path: str, body: dict[str, Any]) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), gate, *say(0, [*b"b"], None)])
    front = byte_front(pool)
    async with exchange(create_app(front), path, {**body, "stream": True}) as (client, task):
        await client.until(b'"a"')
        client.refuse(ConnectionResetError())
        gate.set()
        await asyncio.wait([task])
    assert pool.generations[0].was_aborted
    assert [record.outcome for record in front.records] == ["cancelled"]


@ENDPOINTS
async def test_a_slow_reader_holds_back_its_own_stream(path: str, body: dict[str, Any]) -> None:
    """While the connection takes nothing, no event is read: what was generated waits in the pool's bounded queue, not here."""
    gate = asyncio.Event()
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), gate, *say(0, [*b"b" * 200, EOS])])
    async with exchange(create_app(byte_front(pool)), path, {**body, "stream": True, "max_tokens": 202}) as (
        client,
        task,
    ):
        await client.until(b'"a"')
        client.room.clear()
        gate.set()
        await settle(lambda: pool.generations[0].num_read == 2)
        num_sends = client.num_sends
        for _ in range(100):
            await asyncio.sleep(0)
        assert pool.generations[0].num_read == 2
        assert client.num_sends == num_sends
        client.room.set()
        await task
    assert client.text.count('"b"') == 200
    assert client.text.endswith("data: [DONE]\n\n")


@ENDPOINTS
async def test_a_silent_stream_says_that_it_is_alive_and_is_read_the_same(path: str, body: dict[str, Any]) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), gate, *say(0, [*b"b", EOS])])
    front = byte_front(pool, keep_alive_seconds=0.01)
    async with exchange(create_app(front), path, {**body, "stream": True}) as (client, task):
        await client.until(b'"a"')
        await client.until(b": keep-alive\n\n: keep-alive\n\n")
        gate.set()
        await task
    frames = [frame for frame in client.text.split("\n\n") if frame and not frame.startswith(":")]
    assert all(frame.startswith("data: ") for frame in frames)
    assert (frames[-1], client.is_complete) == ("data: [DONE]", True)
    assert client.text.index('"a"') < client.text.index(": keep-alive") < client.text.index('"b"')


@ENDPOINTS
async def test_a_stream_begins_before_its_first_token(path: str, body: dict[str, Any]) -> None:
    pool = ScriptedPool(lambda request: [])
    async with exchange(create_app(byte_front(pool)), path, {**body, "stream": True}) as (client, _):
        await pool.submitted.wait()  # until then a thread encodes the prompt
        await settle(lambda: client.status == 200)
        assert not client.is_complete


@ENDPOINTS
@pytest.mark.parametrize(
    "error", [NumericFault("Not finite."), WorkerFailed("Failed."), RequestAborted("Shutting down.")]
)
async def test_a_failing_stream_ends_with_one_error_and_the_reason_is_reported(
    path: str, body: dict[str, Any], error: Any
) -> None:
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), error])
    front = byte_front(pool)
    async with exchange(create_app(front), path, {**body, "stream": True, "n": 2}) as (client, task):
        await task
    assert client.is_complete
    frames = client.text.split("\n\n")
    assert str(error) in frames[-2]
    assert client.text.count("error") == 2  # the frame's name and the type in it
    assert "[DONE]" not in client.text
    assert [record.outcome for record in front.records] == ["error"]


async def test_an_unexpected_error_shows_nothing_of_itself_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = ScriptedPool(lambda request: [*say(0, [*b"a"], None), PromptScores(1, None)])  # type: ignore[arg-type]  # a bug
    async with exchange(create_app(byte_front(pool)), CHAT[0], {**CHAT[1], "stream": True}) as (client, task):
        await task
    assert "internal_error" in client.text
    assert "NoneType" not in client.text
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1


async def test_every_choice_is_stopped_when_one_of_several_prompts_fails() -> None:
    calls = iter([[], [*say(0, [*b"a"], None), WorkerFailed("Failed.")]])
    pool = ScriptedPool(lambda request: next(calls))
    async with exchange(create_app(byte_front(pool)), TEXT[0], {"prompt": ["a", "b"]}) as (client, task):
        await task
    assert client.status == 500
    assert pool.generations[0].was_aborted
    assert all(generation.is_over for generation in pool.generations)


async def test_a_failed_stream_stops_the_rest_before_its_reader_hears_of_it() -> None:
    gate = asyncio.Event()
    calls = iter([[], [*say(0, [*b"a"], None), gate, WorkerFailed("Failed.")]])
    pool = ScriptedPool(lambda request: next(calls))
    body = {"prompt": ["a", "b"], "stream": True}
    async with exchange(create_app(byte_front(pool)), TEXT[0], body) as (client, task):
        await client.until(b'"a"')
        client.room.clear()
        gate.set()
        await settle(lambda: pool.generations[0].was_aborted)
        assert "error" not in client.text
        client.room.set()
        await task
    assert "worker_failed" in client.text


async def test_a_finished_stream_leaves_nothing_running() -> None:
    pool = ScriptedPool(scripted([*b"ab", EOS]))
    before = asyncio.all_tasks()
    async with exchange(create_app(byte_front(pool)), CHAT[0], {**CHAT[1], "stream": True}) as (_, task):
        await task
    assert asyncio.all_tasks() == before
    assert pool.generations[0].is_over
    assert not pool.generations[0].was_aborted

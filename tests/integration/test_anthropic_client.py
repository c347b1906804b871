"""Anthropic's official client against the app on a socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anthropic
import pytest
from anthropic import AsyncAnthropic
from byte_front import EOS, HELLO, WORLD, byte_front, live_server
from scripted_pool import ScriptedPool, say, scripted

from tritserve.errors import Overloaded, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anthropic.types import MessageParam

HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def client_of(pool: ScriptedPool) -> AsyncIterator[AsyncAnthropic]:
    """Yield the client of a live server; its base_url ends before /v1."""
    async with (
        live_server(byte_front(pool)) as url,
        AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_plain_and_streamed_messages_agree() -> None:
    async with client_of(ScriptedPool(scripted([HELLO, WORLD, EOS]), num_cached_tokens=4)) as client:
        whole = await client.messages.create(model="tiny", max_tokens=8, messages=HI)
        async with client.messages.stream(model="tiny", max_tokens=8, messages=HI) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
    assert texts == ["Hello", " world"]
    assert await stream.get_final_text() == "Hello world"
    assert [block.to_dict() for block in whole.content] == [{"type": "text", "text": "Hello world", "citations": None}]
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)
    assert whole.usage.cache_read_input_tokens == 4


async def test_tokens_are_counted() -> None:
    async with client_of(ScriptedPool()) as client:
        counted = await client.messages.count_tokens(model="tiny", messages=HI, system="Be brief")
    assert counted.input_tokens == len("system: Be brief\nuser: Hi") + 1


async def test_errors_are_the_clients_own_exceptions() -> None:
    pool = ScriptedPool()
    pool.refusal = Overloaded("full", reason="queue_full", retry_after_seconds=1.0)
    async with client_of(pool) as client:
        with pytest.raises(anthropic.RateLimitError, match="full"):
            await client.messages.create(model="tiny", max_tokens=8, messages=HI)
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await client.messages.create(model="other", max_tokens=8, messages=HI)
    assert unknown.value.request_id == unknown.value.response.headers["x-request-id"]


async def test_an_error_in_a_stream_is_raised_by_the_client() -> None:
    pool = ScriptedPool(lambda _: [*say(0, [HELLO], None), WorkerFailed("the worker died")])
    async with client_of(pool) as client:
        with pytest.raises(anthropic.APIStatusError, match="the worker died"):
            async with client.messages.stream(model="tiny", max_tokens=8, messages=HI) as stream:
                await stream.get_final_message()

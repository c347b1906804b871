"""The official client against the app on a socket, over a pool of real worker processes with a fake model."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai
import pytest
from byte_front import EOS, HELLO, WORLD, byte_front, live_server
from fake_runner import model_completion
from openai import AsyncOpenAI, OpenAI
from pool_harness import running_pool
from scripted_pool import ScriptedPool, pseudo_tokens, say, scored, scripted

from tritserve.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tritserve.pool.generation import Pool

MESSAGES = [{"role": "user", "content": "Hi"}]
PROMPT = [*b"user: Hi", 257]


@asynccontextmanager
async def client_of(pool: Pool) -> AsyncIterator[AsyncOpenAI]:
    """Yield the asynchronous client of a live server."""
    async with live_server(byte_front(pool)) as url, AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_plain_and_streamed_chat_agree() -> None:
    async with client_of(ScriptedPool()) as client:
        whole = await client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1, max_tokens=30)  # type: ignore[arg-type]
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="tiny",
                messages=MESSAGES,  # type: ignore[arg-type]
                seed=1,
                max_tokens=30,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    assert whole.choices[0].message.content == bytes(pseudo_tokens(PROMPT, 1, 30)).decode()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


async def test_stop_n_and_logprobs_are_what_the_client_expects() -> None:
    async with client_of(ScriptedPool(scripted([HELLO, WORLD, *b"!?", EOS]))) as client:
        found = await client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,  # type: ignore[arg-type]
            n=2,
            stop=["!?"],
            logprobs=True,
            top_logprobs=3,
        )
    assert [choice.message.content for choice in found.choices] == ["Hello world"] * 2
    assert [choice.finish_reason for choice in found.choices] == ["stop"] * 2
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["Hello", " world", "!", "?"]
    assert [entry.logprob for entry in logprobs.content[:2]] == [scored(HELLO).logprob, scored(WORLD).logprob]
    assert len(logprobs.content[0].top_logprobs) == 3


async def test_text_completions_with_echo_and_several_prompts() -> None:
    async with client_of(ScriptedPool()) as client:
        found = await client.completions.create(
            model="tiny", prompt=["ab", "c"], echo=True, logprobs=1, max_tokens=2, seed=4
        )
        stream = await client.completions.create(model="tiny", prompt="ab", max_tokens=2, seed=4, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert found.choices[0].text == "ab" + bytes(pseudo_tokens([*b"ab"], 4, 2)).decode() == "ab" + streamed
    assert found.choices[1].text.startswith("c")
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == found.choices[0].text
    assert logprobs.text_offset == [0, 1, 2, 3]


async def test_the_synchronous_client_works_and_lists_models() -> None:
    def use(url: str) -> tuple[str | None, list[str], str]:
        with OpenAI(base_url=url, api_key="none") as client:
            answer = client.chat.completions.create(model="org/tiny", messages=MESSAGES, max_tokens=3, seed=1)  # type: ignore[arg-type]
            with client.chat.completions.create(
                model="tiny",
                messages=MESSAGES,  # type: ignore[arg-type]
                max_tokens=3,
                seed=1,
                stream=True,
            ) as stream:
                streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert answer.choices[0].message.content == streamed
            return answer.model, [model.id for model in client.models.list()], client.models.retrieve("org/tiny").id

    async with live_server(byte_front(ScriptedPool())) as url:
        assert await asyncio.to_thread(use, url) == ("org/tiny", ["tiny", "org/tiny"], "org/tiny")


async def test_errors_become_the_clients_exceptions() -> None:
    pool = ScriptedPool()
    async with client_of(pool) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="tiny", messages=MESSAGES, temperature=3)  # type: ignore[arg-type,call-overload]
        with pytest.raises(openai.NotFoundError):
            await create(model="other", messages=MESSAGES)  # type: ignore[arg-type,call-overload]
        pool.refusal = Overloaded("The queue is full.", reason="queue_full", retry_after_seconds=2.0)
        with pytest.raises(openai.RateLimitError) as full:
            await create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[arg-type,call-overload]
    assert bad.value.param == "temperature"
    assert full.value.response.headers["retry-after"] == "2"


async def test_leaving_a_live_stream_stops_its_generation() -> None:
    pool = ScriptedPool(lambda request: say(0, [*b"abc"], None))
    async with client_of(pool) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(10):
            await pool.generations[0].over.wait()
    assert pool.generations[0].was_aborted


async def test_leaving_a_request_that_does_not_stream_stops_its_generation() -> None:
    pool = ScriptedPool(lambda request: say(0, [*b"abc"], None))
    async with client_of(pool) as client:
        call = asyncio.ensure_future(client.chat.completions.create(model="tiny", messages=MESSAGES))  # type: ignore[arg-type]
        await pool.submitted.wait()
        call.cancel()
        await asyncio.wait([call])
        async with asyncio.timeout(10):
            await pool.generations[0].over.wait()
    assert pool.generations[0].was_aborted


async def test_choices_of_real_workers_are_those_of_the_model_alone(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _), client_of(pool) as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(
                    model="tiny",
                    prompt=[[1, 2, seed], [3, seed]],
                    max_tokens=12,
                    seed=seed,
                    extra_body={"return_token_ids": True, "ignore_eos": True},
                )
                for seed in range(4)
            )
        )
    for seed, answer in enumerate(answers):
        for choice, prompt in zip(answer.choices, [[1, 2, seed], [3, seed]], strict=True):
            assert choice.model_extra is not None
            assert choice.model_extra["token_ids"] == model_completion(prompt, seed, 12, frozenset())


async def test_plain_and_streamed_responses_agree() -> None:
    async with client_of(ScriptedPool(scripted([HELLO, WORLD, EOS]))) as client:
        whole = await client.responses.create(model="tiny", input="Hi", instructions="Be brief")
        async with client.responses.stream(model="tiny", input="Hi", instructions="Be brief") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == "Hello world"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello world"
    assert (whole.status, final.status, final.usage) == ("completed", "completed", whole.usage)

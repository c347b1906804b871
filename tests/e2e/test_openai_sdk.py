"""What a user of the official client sees."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import httpx
import openai
import pytest
from live_server import LiveServer, eventually
from openai import AsyncOpenAI, OpenAI

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

MODEL = "demo"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story about a dog named Max."}]
ENDLESS = {"ignore_eos": True}


def test_plain_chat_answers_with_every_field_a_client_reads(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=24, seed=1)
    choice = answer.choices[0]
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24


def test_an_answer_that_ends_by_itself_says_stop(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, seed=1)
    assert answer.choices[0].finish_reason == "stop"
    assert "<|" not in (answer.choices[0].message.content or "")


def test_streamed_chat_is_the_whole_chat(sdk: OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=60, seed=7)
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=60,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1


def test_the_clients_stream_helper_collects_the_same_answer(sdk: OpenAI) -> None:
    # It takes an answer that was cut for an error, so this one ends by itself.
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stop=".", seed=8, logprobs=True)
    with sdk.chat.completions.stream(model=MODEL, messages=MESSAGES, stop=".", seed=8, logprobs=True) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].logprobs is not None
    assert whole.choices[0].logprobs is not None
    assert final.choices[0].logprobs.content == whole.choices[0].logprobs.content


def test_choices_with_a_seed_differ_from_each_other_and_repeat(sdk: OpenAI) -> None:
    first, again = (
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=30, seed=5, n=4, temperature=1)
        for _ in range(2)
    )
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 4
    assert [choice.message.content for choice in again.choices] == texts
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    alone = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=30, seed=5, temperature=1)
    assert alone.choices[0].message.content == texts[0]


def test_streamed_choices_are_the_whole_ones(sdk: OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=30, seed=5, n=3)
    texts = ["", "", ""]
    finishes: list[str | None] = [None, None, None]
    for chunk in sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=30, seed=5, n=3, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]


def test_without_a_seed_answers_differ(sdk: OpenAI) -> None:
    texts = {
        sdk.completions.create(model=MODEL, prompt="Once", max_tokens=24, temperature=1.5).choices[0].text
        for _ in range(3)
    }
    assert len(texts) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_string(sdk: OpenAI, stream: bool) -> None:
    free = sdk.completions.create(model=MODEL, prompt="Once upon", max_tokens=40, temperature=0).choices[0].text
    stop = free[len(free) // 2 : len(free) // 2 + 4]  # somewhere in the middle of words
    answer = sdk.completions.create(
        model=MODEL, prompt="Once upon", max_tokens=40, temperature=0, stop=["never said", stop], stream=stream
    )
    parts = list(answer) if stream else [answer]  # type: ignore[call-overload]  # one of two types
    assert "".join(part.choices[0].text for part in parts) == free[: free.index(stop)]
    assert parts[-1].choices[0].finish_reason == "stop"


def test_every_token_of_a_chat_has_its_logprobs(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=12, seed=3, logprobs=True, top_logprobs=5
    )
    content = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    assert content
    assert len(content) == 12
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) in (5, 6)
        assert token.token in [top.token for top in token.top_logprobs]
        assert math.fsum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-6


def test_echo_scores_a_text_as_generating_it_did(sdk: OpenAI) -> None:
    """What evaluation harnesses do: the log-likelihood of a continuation, from the prompt's own scores."""
    told = sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=20, temperature=0, logprobs=3)
    text = told.choices[0].text
    scored = sdk.completions.create(
        model=MODEL, prompt="Once upon a time" + text, max_tokens=0, echo=True, logprobs=3, temperature=0
    )
    assert scored.choices[0].text == "Once upon a time" + text
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0
    generated, echoed = told.choices[0].logprobs, scored.choices[0].logprobs
    assert generated is not None
    assert echoed is not None
    assert echoed.token_logprobs is not None
    assert echoed.token_logprobs[0] is None
    assert generated.tokens == echoed.tokens[-20:] if echoed.tokens else False
    assert generated.token_logprobs == echoed.token_logprobs[-20:]
    assert echoed.text_offset is not None
    assert echoed.text_offset[-20] == len("Once upon a time")


def test_many_prompts_of_ids_are_answered_in_order(sdk: OpenAI) -> None:
    answer = sdk.completions.create(model=MODEL, prompt=[[300, 301], [302], [303, 304, 305]], max_tokens=3, n=2, seed=1)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 18)
    second = sdk.completions.create(model=MODEL, prompt=[302], max_tokens=3, seed=1)
    assert second.choices[0].text == answer.choices[2].text


def test_models_are_listed_and_found(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).object == "model"


async def test_async_client_answers_many_at_once(live: LiveServer) -> None:
    with live.sdk() as sdk:
        alone = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=10, seed=3)
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *[
                client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=10, seed=seed)
                for seed in range(12)
            ]
        )
        async with await client.completions.create(model=MODEL, prompt="Once", max_tokens=9, stream=True) as stream:
            num_chunks = len([chunk async for chunk in stream])
    assert answers[3].choices[0].message.content == alone.choices[0].message.content
    assert len({answer.choices[0].message.content for answer in answers}) > 1
    assert num_chunks > 1


@pytest.mark.parametrize("n", [1, 8])
def test_a_stream_closed_midway_gives_all_its_blocks_back(live: LiveServer, sdk: OpenAI, n: int) -> None:
    cancelled = live.metric("cancelled_total")
    stream = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=n, stream=True, extra_body=ENDLESS, temperature=1.2
    )
    for _, chunk in zip(range(2 * n), stream, strict=False):
        assert chunk.choices
    assert live.metric("kv_cache_used_bytes") > 0
    stream.close()
    live.settle()
    assert live.metric("cancelled_total") == cancelled + n
    assert live.metric("requests_total", outcome="cancelled") >= 1


def test_a_whole_answer_nobody_waits_for_is_not_computed(live: LiveServer) -> None:
    cancelled = live.metric("cancelled_total")
    body = {"model": MODEL, "messages": MESSAGES, "n": 8, "ignore_eos": True}
    with live.http() as client:
        generated = live.metric("generated_tokens_total")
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body, timeout=0.3)
    live.settle()
    assert live.metric("cancelled_total") == cancelled + 8
    assert live.metric("generated_tokens_total") < generated + 8 * 900


def test_a_client_that_leaves_the_queue_is_forgotten(live: LiveServer) -> None:
    """More choices than run at once: those of the second request wait, and are gone before they ever ran."""
    queued = live.metric("cancelled_total", stage="queued")
    body = {"model": MODEL, "messages": MESSAGES, "n": 8, "ignore_eos": True, "stream": True}
    with live.http() as client:
        streams = [client.stream("POST", "/v1/chat/completions", json=body) for _ in range(6)]
        for stream in streams:
            stream.__enter__()
        eventually(lambda: live.metric("requests_waiting") > 0, "a choice that waits")
        for stream in streams:
            stream.__exit__(None, None, None)
    live.settle()
    assert live.metric("cancelled_total", stage="queued") > queued


def test_errors_are_the_clients_own_exceptions(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    assert (wrong.value.type, wrong.value.param) == ("invalid_request_error", "temperature")
    with pytest.raises(openai.BadRequestError) as long:
        sdk.completions.create(model=MODEL, prompt=[300] * 1024)
    assert long.value.code == "context_length_exceeded"
    assert "1024" in long.value.message
    with pytest.raises(openai.BadRequestError, match="tool_choice") as tools:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, tool_choice="required")
    assert tools.value.param == "tool_choice"

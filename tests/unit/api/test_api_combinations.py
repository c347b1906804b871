"""Any combination of parameters: never a 500, and a stream says what the whole answer says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from byte_front import EOS, byte_front, http_client
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_pool import ScriptedPool, prompt_scores, pseudo_tokens, say

from tritserve.pool.generation import ChoiceEnd, GenerationRequest

SHARED: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 3),
    "temperature": st.sampled_from([0, 0.7, 2]),
    "top_p": st.sampled_from([0, 0.5, 1]),
    "top_k": st.sampled_from([-1, 0, 40]),
    "min_p": st.sampled_from([0, 0.1]),
    "repetition_penalty": st.sampled_from([0.5, 1.1]),
    "presence_penalty": st.sampled_from([-2, 1.5]),
    "frequency_penalty": st.sampled_from([-1, 2]),
    "logit_bias": st.just({"97": 5, "98": -100}),
    "allowed_token_ids": st.just([97, 98, 99]),
    "stop": st.sampled_from(["a", ["b", "cd"], []]),
    "stop_token_ids": st.just([120]),
    "include_stop_str_in_output": st.booleans(),
    "min_tokens": st.integers(0, 4),
    "ignore_eos": st.booleans(),
    "max_tokens": st.integers(4, 20),
    "truncate_prompt_tokens": st.integers(1, 12),
    "return_token_ids": st.booleans(),
    "priority": st.integers(-3, 0),
    "cache_salt": st.just("s"),
    "timeout": st.just(1.5),
    "stream_options": st.just({"include_usage": True}),
}
CHAT = SHARED | {
    "logprobs": st.just(True),
    "top_logprobs": st.integers(0, 2),
    "max_completion_tokens": st.integers(4, 20),
    "continue_final_message": st.booleans(),
}
TEXT = SHARED | {
    "logprobs": st.integers(0, 3),
    "echo": st.booleans(),
}
PROMPTS = st.sampled_from(["Hi é", ["ab", "🐈"], [97, 0xF0], [[1], [97, EOS, 98]]])


def model(request: GenerationRequest) -> list[Any]:
    """Generate until the length, a stop token or nothing: a pure function of the request."""
    steps: list[Any] = prompt_scores(request)
    for index, sampling in enumerate(request.choices):
        count = min(request.max_tokens, 1 + sampling.seed % 11)
        tokens = pseudo_tokens(request.prompt, sampling.seed, count)
        if count < request.max_tokens and request.stop_token_ids:
            steps += say(index, [*tokens, min(request.stop_token_ids)], "stop", sampling.num_top_logprobs)
        elif count < request.max_tokens:
            steps += [*say(index, tokens, None, sampling.num_top_logprobs), ChoiceEnd(index, "timeout")]
        else:
            steps += say(index, tokens, "length", sampling.num_top_logprobs)
    return steps


async def ask(path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Return status and text of an answer."""
    async with http_client(byte_front(ScriptedPool(model))) as client:
        response = await client.post(path, json=body)
        return response.status_code, response.text


def from_stream(text: str) -> dict[str, Any]:
    """Put a stream together as a client would."""
    frames = text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    found: dict[str, Any] = {"choices": {}}
    for frame in frames:
        chunk = json.loads(frame.removeprefix("data: "))
        found["usage"] = chunk.get("usage") or found.get("usage")
        for part in chunk["choices"]:
            choice = found["choices"].setdefault(part["index"], {"text": "", "ids": [], "logprobs": {}})
            choice["text"] += part["text"] if "text" in part else part["delta"].get("content", "")
            choice["ids"] += part.get("token_ids", [])
            for name, values in (part["logprobs"] or {}).items():
                choice["logprobs"].setdefault(name, []).extend(values or [])
            if part["finish_reason"]:
                choice["finish"] = (part["finish_reason"], part["stop_reason"])
    return found


def from_whole(text: str) -> dict[str, Any]:
    """Show a whole answer in the same form."""
    answer = json.loads(text)
    choices = {
        choice["index"]: {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "ids": choice.get("token_ids", []),
            "logprobs": {name: values or [] for name, values in (choice["logprobs"] or {}).items()},
            "finish": (choice["finish_reason"], choice["stop_reason"]),
        }
        for choice in answer["choices"]
    }
    return {"choices": choices, "usage": answer["usage"]}


async def compare(path: str, body: dict[str, Any]) -> None:
    """Ask twice and compare."""
    options = body.pop("stream_options", None)
    status, whole = await ask(path, body)
    stream_body = {**body, "stream": True} | ({"stream_options": options} if options else {})
    streamed_status, streamed = await ask(path, stream_body)
    assert status == streamed_status
    assert status in (200, 400)
    if status == 200:
        expected, found = from_whole(whole), from_stream(streamed)
        assert found["usage"] == (expected["usage"] if options else None)
        for choice in [*expected["choices"].values(), *found["choices"].values()]:
            choice["logprobs"] = {name: values for name, values in choice["logprobs"].items() if values}
        assert found["choices"] == expected["choices"]


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({"seed": st.integers(0, 2**63 - 1)}, optional=CHAT))
def test_any_chat_request_streams_what_it_answers_whole(body: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    asyncio.run(compare("/chat/completions", {"messages": messages, **body}))


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({"seed": st.integers(0, 2**63 - 1), "prompt": PROMPTS}, optional=TEXT))
def test_any_text_request_streams_what_it_answers_whole(body: dict[str, Any]) -> None:
    asyncio.run(compare("/completions", body))

"""Calls of functions through the official client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import openai
import pytest

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "demo"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is the weather in Rome?"}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 12},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 7}, "maxItems": 3},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"get_weather": WEATHER, "now": {"type": "object", "maxProperties": 0}}


def assert_good(name: str, arguments: str) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_calls_conform_whatever_the_model_thinks(sdk: OpenAI, choice: Any) -> None:
    for seed in range(6):
        answer = sdk.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            tools=TOOLS,
            tool_choice=choice,
            parallel_tool_calls=False,
            seed=seed,
            max_tokens=200,
            temperature=1.5,
        )
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == "tool_calls"
        assert message.content is None
        assert message.tool_calls is not None
        [call] = message.tool_calls
        assert call.type == "function"
        assert_good(call.function.name, call.function.arguments)
        assert choice == "required" or call.function.name == "get_weather"


def test_the_clients_stream_helper_collects_the_same_calls(sdk: OpenAI) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "seed": 3, "max_tokens": 300}
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, **asked).choices[0]
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **asked))
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            if delta.index not in calls:
                assert delta.id
                assert delta.type == "function"
                calls[delta.index] = [delta.function.name or "", ""]
            else:
                assert delta.id is delta.type is delta.function.name is None
            calls[delta.index][1] += delta.function.arguments or ""
    assert whole.message.tool_calls is not None
    assert list(calls.values()) == [[c.function.name, c.function.arguments] for c in whole.message.tool_calls]  # type: ignore[union-attr]  # functions only
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_a_conversation_with_results_goes_on(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=1
    ).choices[0]
    assert first.message.tool_calls is not None
    history: list[Any] = [
        *MESSAGES,
        first.message.to_dict(),
        {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "Sunny, 25 degrees."},
    ]
    second = sdk.chat.completions.create(model=MODEL, messages=history, tools=TOOLS, seed=1, max_tokens=40)
    assert second.choices[0].finish_reason in ("stop", "length", "tool_calls")
    told = sdk.chat.completions.create(model=MODEL, messages=history, tool_choice="none", tools=TOOLS, max_tokens=20)
    assert told.choices[0].message.tool_calls is None
    assert second.usage is not None
    assert told.usage is not None
    assert second.usage.prompt_tokens > told.usage.prompt_tokens  # the tools are in the prompt


def test_calls_are_counted_as_an_outcome_of_their_own(live: Any, sdk: OpenAI) -> None:
    before = live.metric("requests_total", outcome="tool_calls")
    sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS[1:], tool_choice="required", parallel_tool_calls=False
    )
    assert live.metric("requests_total", outcome="tool_calls") == before + 1


def test_a_schema_that_cannot_be_enforced_is_refused(sdk: OpenAI) -> None:
    bad: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[bad])
    assert (caught.value.param, caught.value.code) == ("tools", "invalid_grammar")

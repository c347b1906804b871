"""``tools`` and ``tool_choice``: what the model is told, what its answer may hold, how calls are streamed, and results sent back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from byte_front import EOS, byte_front, http_client
from scripted_pool import ScriptedPool, scripted

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = {"tools": [WEATHER, NOW]}
HI = [{"role": "user", "content": "Hi"}]
CALLS = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Łódź {"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
ARGUMENTS = ['{"city": "Łódź {"}', "{}"]


def saying(text: str, finish: str = "stop") -> ScriptedPool:
    tokens = list(text.encode()) + ([EOS] if finish == "stop" else [])
    return ScriptedPool(scripted(tokens, finish=finish), max_model_len=4096)


async def post(pool: ScriptedPool, body: dict[str, Any], **settings: Any) -> tuple[int, Any, Any, Any]:
    front = byte_front(pool, **settings)
    async with http_client(front) as client:
        answer = await client.post("/chat/completions", json={"messages": HI, **body})
    return answer.status_code, answer.json(), front, answer.headers


async def stream(pool: ScriptedPool, body: dict[str, Any]) -> list[Any]:
    async with http_client(byte_front(pool)) as client:
        answer = await client.post("/chat/completions", json={"messages": HI, "stream": True, **body})
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines[:-1]]


async def test_calls_come_out_of_the_answer_with_names_arguments_and_ids() -> None:
    status, answer, front, _ = await post(saying("One moment.\n" + CALLS), TOOLS)
    choice = answer["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "tool_calls")
    assert choice["message"]["content"] == "One moment.\n"
    calls = choice["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "get_weather", "arguments": ARGUMENTS[0]},
        {"name": "now", "arguments": "{}"},
    ]
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in calls)
    assert calls[0]["id"] != calls[1]["id"]
    assert front.records[0].outcome == "tool_calls"
    assert front.records[0].finish_reasons == ("tool_calls",)


async def test_content_is_null_where_there_are_only_calls() -> None:
    _, answer, _, _ = await post(saying(CALLS), TOOLS)
    assert answer["choices"][0]["message"]["content"] is None


async def test_an_answer_without_calls_is_as_ever() -> None:
    _, answer, front, _ = await post(saying("Hello {} <tool"), TOOLS)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "Hello {} <tool", "refusal": None}
    assert front.records[0].outcome == "stop"


async def test_a_call_that_is_cut_off_says_length() -> None:
    _, answer, _, _ = await post(saying(CALLS[:60], "length"), TOOLS)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


async def test_a_stream_names_a_call_once_and_then_sends_pieces_of_its_arguments() -> None:
    choices = await stream(saying("Hm. " + CALLS), {**TOOLS, "logprobs": True})
    deltas = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    for index in range(2):
        first, *rest = [delta for delta in deltas if delta["index"] == index]
        assert set(first) == {"index", "id", "type", "function"}
        assert first["function"] == {"name": ["get_weather", "now"][index], "arguments": ""}
        assert all(set(delta) == {"index", "function"} and set(delta["function"]) == {"arguments"} for delta in rest)
        assert "".join(delta["function"]["arguments"] for delta in rest) == ARGUMENTS[index]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hm. "
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    tokens = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert len(tokens) == len(("Hm. " + CALLS).encode()) + 1  # every token shows once, those of the spelling too


async def test_the_model_is_told_of_the_tools_unless_it_must_not_call_them() -> None:
    _, _, front, _ = await post(saying("x"), TOOLS)
    told = front.text.chats[0]["tools"]
    assert [tool["function"]["name"] for tool in told] == ["get_weather", "now"]
    assert told[0]["function"]["parameters"] == WEATHER["function"]["parameters"]  # type: ignore[index]  # it is a dict
    pool = saying(CALLS)
    _, answer, front, _ = await post(pool, {**TOOLS, "tool_choice": "none"})
    assert "tools" not in front.text.chats[0]
    assert (pool.grammars, pool.requests[0].grammar) == ([], None)
    assert answer["choices"][0]["message"]["content"] == CALLS
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("choice", "parallel", "text", "many", "names"),
    [
        (None, None, True, True, 2),
        ("auto", None, True, True, 2),
        ("auto", False, True, False, 2),
        ("required", None, False, True, 2),
        ("required", False, False, False, 2),
        ({"type": "function", "function": {"name": "now"}}, None, False, False, 1),
    ],
)
async def test_the_grammar_says_whether_and_what_may_be_called(
    choice: object, parallel: bool | None, text: bool, many: bool, names: int
) -> None:
    pool = saying(CALLS)
    await post(pool, {**TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel})
    grammar = pool.requests[0].grammar
    assert grammar is not None
    assert pool.grammars == [grammar]
    assert ("TEXT" in grammar.source, "{0,15}" in grammar.source) == (text, many)
    assert grammar.source.count('\\"name\\"') == names
    assert 'name\\": \\"now\\"' in grammar.source


async def test_with_a_schema_for_the_answer_it_is_json_or_calls() -> None:
    pool = saying('{"a":1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    demand = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    await post(pool, {**TOOLS, **demand})
    grammar = pool.requests[0].grammar
    assert grammar is not None
    assert "otherwise" in grammar.source
    assert "TEXT" not in grammar.source


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": 'x"'}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [NOW, NOW]}, "tools[1]"),
        ({"tools": [NOW] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({**TOOLS, "tool_choice": "sometimes"}, "tool_choice.type"),
        ({**TOOLS, "tool_choice": "function"}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({**TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({**TOOLS, "stop": "x"}, "stop"),
        ({**TOOLS, "structured_outputs": {"regex": "a"}}, "tools"),
    ],
)
async def test_what_is_wrong_with_tools_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    pool = saying("x")
    status, answer, _, _ = await post(pool, body)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert not pool.requests


async def test_a_schema_that_cannot_be_enforced_is_refused_before_anything_is_queued() -> None:
    pool = saying("x")
    pool.grammar_refusal = "Unimplemented keys"
    status, answer, _, _ = await post(pool, TOOLS)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "tools", "invalid_grammar")
    assert not pool.requests


async def test_unknown_names_in_tools_are_listed_and_no_tools_are_none() -> None:
    _, _, _, headers = await post(saying("x"), {"tools": [{**NOW, "mood": 1, "cache_control": {}}]})
    assert headers["x-tritserve-ignored"] == "tools.mood, tools.cache_control"
    status, _, _, headers = await post(saying("x"), {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True})
    assert (status, headers["x-tritserve-ignored"]) == (200, "parallel_tool_calls")


def conversation(**changes: Any) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    call["function"] = {**call["function"], **changes.pop("function", {})}  # type: ignore[dict-item]  # both are dicts
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain", **changes}
    return [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, result]


async def test_calls_and_results_go_back_to_the_model() -> None:
    status, _, front, _ = await post(saying("x"), {**TOOLS, "messages": conversation()})
    assert status == 200
    assert front.text.chats[0]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "get_weather"},
    ]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (conversation(tool_call_id="c2"), "messages[2].tool_call_id"),
        (conversation(tool_call_id=None), "messages[2].tool_call_id"),
        (conversation(content=None), "messages[2].content"),
        (conversation(function={"arguments": "{"}), "messages[1].tool_calls[0].function.arguments"),
        (conversation(function={"arguments": "[1]"}), "messages[1].tool_calls[0].function.arguments"),
        (conversation(function={"arguments": "[" * 50_000}), "messages[1].tool_calls[0].function.arguments"),
        (conversation(function={"name": "<|x|>"}), "messages[1].tool_calls[0].function.name"),
    ],
)
async def test_calls_and_results_that_do_not_fit_are_refused_by_name(messages: list[Any], param: str) -> None:
    status, answer, _, _ = await post(saying("x"), {**TOOLS, "messages": messages})
    assert (status, answer["error"]["param"]) == (400, param), answer

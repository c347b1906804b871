"""POST /v1/messages and /v1/messages/count_tokens in Anthropic's shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from byte_front import EOS, HELLO, WORLD, byte_front, http_client
from scripted_pool import ScriptedPool, say, scripted

from tritserve.errors import Overloaded, WorkerFailed
from tritserve.pool.generation import ChoiceEnd

HI = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "messages": HI}


async def post(pool: ScriptedPool, body: dict[str, Any], path: str = "/messages", **settings: Any) -> Any:
    """Send a request; return the response."""
    async with http_client(byte_front(pool, **settings)) as client:
        return await client.post(path, json=body)


async def events(pool: ScriptedPool, body: dict[str, Any]) -> list[Any]:
    """Return a stream's events as JSON, checked to be named after their types."""
    response = await post(pool, {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + found[-1]["type"]
    return found


async def test_whole_answer_has_the_official_shape() -> None:
    response = await post(ScriptedPool(scripted([HELLO, WORLD, EOS]), num_cached_tokens=4), BODY)
    found = response.json()
    assert found.pop("id").startswith("msg_")
    assert found == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello world", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len("user: Hi") + 1 - 4,
            "output_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0,
        },
    }
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_stream_has_the_official_events_in_their_order() -> None:
    found = await events(ScriptedPool(scripted([HELLO, WORLD, EOS]), num_cached_tokens=4), BODY)
    assert [event["type"] for event in found] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert found[0]["message"]["content"] == []
    assert found[0]["message"]["stop_reason"] is None
    assert found[0]["message"]["usage"]["input_tokens"] == len("user: Hi") + 1
    assert [event["delta"] for event in found[3:5]] == [
        {"type": "text_delta", "text": "Hello"},
        {"type": "text_delta", "text": " world"},
    ]
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": len("user: Hi") + 1 - 4,
            "output_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0,
        },
    }


@pytest.mark.parametrize(
    ("tokens", "end", "body", "reason", "sequence"),
    [
        ([HELLO, WORLD], "length", {"max_tokens": 2}, "max_tokens", None),
        ([HELLO, WORLD], "length", {"max_tokens": 3}, "model_context_window_exceeded", None),
        ([HELLO, *b"STOP"], None, {"stop_sequences": ["STOP"]}, "stop_sequence", "STOP"),
        ([HELLO], "timeout", {}, "max_tokens", None),
    ],
)
async def test_why_it_ended_is_said_in_the_official_words(
    tokens: list[int], end: Any, body: dict[str, Any], reason: str, sequence: str | None
) -> None:
    pool = ScriptedPool(lambda _: [*say(0, tokens, None), ChoiceEnd(0, end)] if end else say(0, tokens, None))
    found = (await post(pool, {**BODY, **body})).json()
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)


async def test_system_blocks_and_turns_become_one_conversation() -> None:
    front = byte_front(ScriptedPool(scripted([EOS])))
    body = {
        **BODY,
        "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief", "cache_control": None}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
        ],
    }
    async with http_client(front) as client:
        assert (await client.post("/messages", json=body)).status_code == 200
        counted = (await client.post("/messages/count_tokens", json={**body, "max_tokens": None})).json()
    expected = {
        "messages": [
            {"role": "system", "content": "Be\nbrief"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "c"},
        ],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "template_kwargs": None,
    }
    assert front.text.chats == [expected, expected]
    assert counted == {"input_tokens": len("system: Be\nbrief\nuser: a\nb\nassistant: c")}


async def test_parameters_reach_the_sampler() -> None:
    pool = ScriptedPool(scripted([EOS]))
    body = {**BODY, "temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": 11, "min_p": 0.125}
    assert (await post(pool, body)).status_code == 200
    sampling = pool.requests[0].choices[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert (sampling.seed, sampling.min_p) == (11, 0.125)
    assert pool.requests[0].max_tokens == 8


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"system": 1}, "system"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"min_p": 2}, "min_p"),
        ({"stop_sequences": ["x" * 300]}, "stop"),
    ],
)
async def test_what_is_wrong_is_named_in_anthropics_shape(body: dict[str, Any], word: str) -> None:
    response = await post(ScriptedPool(), {**BODY, **body})
    found = response.json()
    assert (response.status_code, found["type"], found["error"]["type"]) == (400, "error", "invalid_request_error")
    assert word in found["error"]["message"]
    assert found["request_id"] == response.headers["request-id"]


async def test_a_thinking_that_is_disabled_asks_for_nothing() -> None:
    body = {**BODY, "thinking": {"type": "disabled"}, "tools": [], "metadata": {"user_id": "u"}}
    response = await post(ScriptedPool(scripted([EOS])), body)
    assert response.status_code == 200
    assert "metadata" in response.headers["x-tritserve-ignored"]


async def test_refusals_have_anthropics_types() -> None:
    pool = ScriptedPool()
    pool.refusal = Overloaded("full", reason="queue_full", retry_after_seconds=2.0)
    full = await post(pool, BODY)
    assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
    assert full.headers["retry-after"] == "2"
    other = await post(ScriptedPool(), {**BODY, "model": "other"})
    assert (other.status_code, other.json()["error"]["type"]) == (404, "not_found_error")


async def test_an_error_in_a_stream_is_its_last_event() -> None:
    pool = ScriptedPool(lambda _: [*say(0, [HELLO], None), WorkerFailed("died")])
    found = await events(pool, BODY)
    assert [event["type"] for event in found[-2:]] == ["content_block_delta", "error"]
    assert found[-1]["error"] == {"type": "api_error", "message": "died"}


async def test_unknown_paths_below_answer_in_anthropics_shape() -> None:
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.post("/messages/batches", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


TOOLS = [{"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a":1}}\n</tool_call>'


async def test_calls_are_blocks_of_their_own() -> None:
    script = scripted([*b"So ", *CALL.encode(), EOS])
    whole = (await post(ScriptedPool(script), {**BODY, "tools": TOOLS, "tool_choice": {"type": "auto"}})).json()
    assert whole["stop_reason"] == "tool_use"
    text, call = whole["content"]
    assert text == {"type": "text", "text": "So ", "citations": None}
    assert call.pop("id").startswith("toolu_")
    assert call == {"type": "tool_use", "name": "add", "input": {"a": 1}}
    found = await events(ScriptedPool(script), {**BODY, "tools": TOOLS})
    starts = [event["content_block"] for event in found if event["type"] == "content_block_start"]
    assert (starts[0]["text"], starts[1]["name"], starts[1]["input"]) == ("", "add", {})
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta" and event["index"] == 1]
    assert "".join(delta["partial_json"] for delta in deltas) == '{"a":1}'
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


async def test_a_call_that_was_cut_off_is_not_shown_whole() -> None:
    pool = ScriptedPool(scripted(CALL.encode()[:-20], finish="length"))
    whole = (await post(pool, {**BODY, "tools": TOOLS, "max_tokens": 1})).json()
    assert (whole["content"], whole["stop_reason"]) == ([], "max_tokens")


async def test_calls_and_their_results_become_chat_messages() -> None:
    front = byte_front(ScriptedPool(scripted([EOS])))
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2", "is_error": True}
    messages = [
        *HI,
        {"role": "assistant", "content": [{"type": "text", "text": "So"}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    async with http_client(front) as client:
        response = await client.post("/messages", json={**BODY, "messages": messages, "tools": TOOLS})
    assert response.status_code == 200, response.text
    shown = front.text.chats[0]["messages"][-3:]
    assert [message["role"] for message in shown] == ["assistant", "tool", "user"]
    assert shown[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert (shown[1]["tool_call_id"], shown[1]["content"], shown[2]["content"]) == ("toolu_1", "Error: 2", "And?")


@pytest.mark.parametrize(
    ("choice", "demanded"),
    [({"type": "any"}, True), ({"type": "tool", "name": "add"}, True), ({"type": "none"}, False)],
)
async def test_the_choice_of_tools_binds_the_answer(choice: dict[str, Any], demanded: bool) -> None:
    pool = ScriptedPool(scripted([EOS]))
    assert (await post(pool, {**BODY, "tools": TOOLS, "tool_choice": choice})).status_code == 200
    assert (pool.requests[0].grammar is not None) == demanded


async def test_an_output_format_binds_the_answer() -> None:
    pool = ScriptedPool(scripted([EOS]))
    config = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert (await post(pool, {**BODY, "output_config": config})).status_code == 200
    grammar = pool.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"

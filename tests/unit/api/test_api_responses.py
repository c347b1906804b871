"""POST /v1/responses: OpenAI's shape, its events in their order, stateless."""

from __future__ import annotations

import json
from typing import Any

import pytest
from byte_front import ASSISTANT, EOS, HELLO, WORLD, byte_front, http_client
from scripted_pool import ScriptedPool, say, scripted

from tritserve.errors import Overloaded, WorkerFailed

BODY: dict[str, Any] = {"model": "tiny", "input": "Hi"}
PROMPT_TOKENS = len("user: Hi") + 1


async def post(pool: ScriptedPool, body: dict[str, Any], **settings: Any) -> Any:
    """Send a request; return the response."""
    async with http_client(byte_front(pool, **settings)) as client:
        return await client.post("/responses", json=body)


async def events(pool: ScriptedPool, body: dict[str, Any]) -> list[Any]:
    """Return a stream's events as JSON, checked to be named after their types and numbered."""
    response = await post(pool, {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for number, frame in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + found[-1]["type"]
        assert found[-1]["sequence_number"] == number
    return found


async def test_whole_response_has_the_official_shape() -> None:
    pool = ScriptedPool(scripted([HELLO, WORLD, EOS]), num_cached_tokens=4)
    found = (await post(pool, {**BODY, "temperature": 0.5, "instructions": None})).json()
    assert found.pop("id").startswith("resp_")
    assert found["output"][0].pop("id").startswith("msg_")
    assert found.pop("created_at") <= found.pop("completed_at")
    assert found.pop("system_fingerprint").startswith("fp_")
    assert found == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "tiny",
        "output": [
            {
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": PROMPT_TOKENS,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": PROMPT_TOKENS + 3,
        },
        "user": None,
    }


async def test_stream_has_the_official_events_in_their_order() -> None:
    found = await events(ScriptedPool(scripted([HELLO, WORLD, EOS])), BODY)
    assert [event["type"].removeprefix("response.") for event in found] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [event["delta"] for event in found if "delta" in event] == ["Hello", " world"]
    assert (found[0]["response"]["status"], found[0]["response"]["output"]) == ("in_progress", [])
    item = found[-1]["response"]["output"][0]
    assert found[-2]["item"] == item
    assert found[-3]["part"] == item["content"][0]
    assert found[-4]["text"] == item["content"][0]["text"] == "Hello world"
    assert {event["item_id"] for event in found if "item_id" in event} == {item["id"]}


async def test_a_cut_answer_is_incomplete() -> None:
    pool = ScriptedPool(scripted([HELLO], finish="length"))
    whole = (await post(pool, {**BODY, "max_output_tokens": 1})).json()
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (whole["output"][0]["status"], whole["completed_at"]) == ("incomplete", None)
    found = await events(pool, {**BODY, "max_output_tokens": 1})
    assert found[-1]["type"] == "response.incomplete"


async def test_logprobs_come_where_they_are_asked_for() -> None:
    body = {**BODY, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    pool = ScriptedPool(scripted([HELLO, EOS]))
    whole = (await post(pool, body)).json()["output"][0]["content"][0]["logprobs"]
    assert [(entry["token"], len(entry["top_logprobs"])) for entry in whole] == [("Hello", 2), ("<eos>", 2)]
    streamed = [entry for event in await events(pool, body) if "delta" in event for entry in event["logprobs"]]
    assert streamed == whole


async def test_input_items_and_instructions_become_one_conversation() -> None:
    front = byte_front(ScriptedPool(scripted([EOS])))
    body = {
        "instructions": "Be brief",
        "input": [
            {"role": "developer", "content": "Rules"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
            },
            {"role": "user", "content": "c"},
        ],
    }
    async with http_client(front) as client:
        response = await client.post("/responses", json=body)
    assert response.status_code == 200
    assert front.text.chats[0]["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "system", "content": "Rules"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


async def test_parameters_reach_the_sampler() -> None:
    pool = ScriptedPool(scripted([EOS]))
    body = {**BODY, "temperature": 0.5, "top_p": 0.25, "seed": 11, "min_p": 0.125, "max_output_tokens": 5}
    assert (await post(pool, body)).status_code == 200
    (request,) = pool.requests
    assert request.prompt == [*b"user: Hi", ASSISTANT]
    sampling = request.choices[0]
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.min_p) == (0.5, 0.25, 11, 0.125)
    assert request.max_tokens == 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "add"}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"truncation": "maybe"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": {}}, "stream_options"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
async def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    response = await post(ScriptedPool(), {**BODY, **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_what_cannot_change_the_answer_is_listed() -> None:
    body = {**BODY, "store": True, "metadata": {"a": "b"}, "user": "u", "tools": [], "reasoning": {}}
    response = await post(ScriptedPool(scripted([EOS])), body)
    assert response.status_code == 200
    assert {"store", "metadata", "user"} <= set(response.headers["x-tritserve-ignored"].split(", "))


async def test_failures_in_a_stream_are_the_failed_response() -> None:
    pool = ScriptedPool(lambda _: [*say(0, [HELLO], None), WorkerFailed("died")])
    found = await events(pool, BODY)
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["status"] == "failed"
    assert found[-1]["response"]["error"] == {"code": "worker_failed", "message": "died"}


async def test_refusals_keep_their_status_when_a_stream_was_asked_for() -> None:
    pool = ScriptedPool()
    pool.refusal = Overloaded("full", reason="queue_full", retry_after_seconds=2.0)
    response = await post(pool, {**BODY, "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")


TOOLS = [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a":1}}\n</tool_call>'


async def test_calls_are_items_of_their_own() -> None:
    script = scripted([*b"So ", *CALL.encode(), EOS])
    whole = (await post(ScriptedPool(script), {**BODY, "tools": TOOLS})).json()
    message, call = whole["output"]
    assert message["content"][0]["text"] == "So "
    assert (call.pop("id")[:3], call.pop("call_id")[:5]) == ("fc_", "call_")
    assert call == {"type": "function_call", "name": "add", "arguments": '{"a":1}', "status": "completed"}
    assert (whole["status"], whole["tools"]) == ("completed", TOOLS)
    found = await events(ScriptedPool(script), {**BODY, "tools": TOOLS})
    kinds = [event["type"].removeprefix("response.") for event in found if not event["type"].endswith("delta")]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.done", "output_item.done", "completed"),
    ]
    deltas = [event for event in found if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(event["delta"] for event in deltas) == '{"a":1}'
    assert {(event["output_index"], event["item_id"]) for event in deltas} == {
        (1, found[-1]["response"]["output"][1]["id"])
    }
    assert found[-2]["item"] == found[-1]["response"]["output"][1]


async def test_calls_and_their_outputs_become_chat_messages() -> None:
    front = byte_front(ScriptedPool(scripted([EOS])))
    items = [
        {"role": "user", "content": "1+1?"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "2"},
    ]
    async with http_client(front) as client:
        response = await client.post("/responses", json={"input": items, "tools": TOOLS})
    assert response.status_code == 200, response.text
    shown = front.text.chats[0]["messages"][-2:]
    assert shown[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert (shown[1]["role"], shown[1]["tool_call_id"], shown[1]["content"]) == ("tool", "call_1", "2")


async def test_a_format_binds_the_answer_and_is_repeated() -> None:
    pool = ScriptedPool(scripted([EOS]))
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    found = (await post(pool, {**BODY, "text": {"format": form}})).json()
    grammar = pool.requests[0].grammar
    assert grammar is not None
    assert (grammar.kind, found["text"]) == ("json_schema", {"format": form})

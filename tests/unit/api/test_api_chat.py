"""POST /v1/chat/completions: what a client gets for what the model generated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from byte_front import ASSISTANT, CAT_EMOJI_HEAD, EOS, HELLO, VOCAB_SIZE, WORLD, byte_front, http_client
from scripted_pool import ScriptedPool, pseudo_tokens, say, scored, scripted

from tritserve.errors import InvalidRequest, NumericFault, Overloaded, Unavailable, WorkerFailed
from tritserve.model.header import GenerationDefaults
from tritserve.pool.generation import ChoiceEnd

HI = [{"role": "user", "content": "Hi"}]
HI_IDS = [*b"user: Hi", ASSISTANT]


async def post(pool: ScriptedPool, body: dict[str, Any], **settings: Any) -> tuple[int, Any, Any]:
    """Send a chat request; return status, JSON and headers."""
    async with http_client(byte_front(pool, **settings)) as client:
        response = await client.post("/chat/completions", json={"messages": HI, **body})
        return response.status_code, response.json(), response.headers


async def answer(pool: ScriptedPool, body: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Return a good answer's JSON."""
    status, found, _ = await post(pool, body or {}, **settings)
    assert status == 200, found
    return found


async def stream(pool: ScriptedPool, body: dict[str, Any]) -> list[Any]:
    """Return a stream's events as JSON, checked to end with [DONE]."""
    async with http_client(byte_front(pool)) as client:
        response = await client.post("/chat/completions", json={"messages": HI, "stream": True, **body})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        frames = response.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def test_whole_answer_has_every_field_of_the_official_shape() -> None:
    pool = ScriptedPool(scripted([HELLO, WORLD, EOS]), num_cached_tokens=4)
    found = await answer(pool, {"model": "tiny"})
    assert found.pop("id").startswith("chatcmpl-")
    assert found.pop("created") > 1_700_000_000
    assert found.pop("system_fingerprint").startswith("fp_")
    assert found == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len(HI_IDS),
            "completion_tokens": 3,
            "total_tokens": len(HI_IDS) + 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert pool.requests[0].prompt == HI_IDS
    assert pool.requests[0].stop_token_ids == {EOS}


async def test_stream_has_a_role_first_one_empty_delta_last_and_the_same_names_throughout() -> None:
    chunks = await stream(ScriptedPool(scripted([HELLO, WORLD, EOS])), {})
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["choices"][0]["logprobs"] is None
        assert "usage" not in chunk
        assert {key: chunk[key] for key in ("id", "created", "model", "system_fingerprint")} == {
            key: chunks[0][key] for key in ("id", "created", "model", "system_fingerprint")
        }


async def test_usage_comes_in_a_chunk_without_choices_when_asked() -> None:
    chunks = await stream(ScriptedPool(scripted([HELLO, EOS])), {"stream_options": {"include_usage": True}})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    assert chunks[-1]["usage"]["total_tokens"] == len(HI_IDS) + 2


async def test_stream_options_without_stream_are_refused() -> None:
    status, found, _ = await post(ScriptedPool(), {"stream_options": {"include_usage": True}})
    assert (status, found["error"]["param"]) == (400, "stream_options")


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([*"größe 🐈 e\u0301".encode(), EOS], id="characters in several tokens"),
        pytest.param([CAT_EMOJI_HEAD, 0x90, 0x88, EOS], id="a character across tokens of several bytes"),
        pytest.param([0xF0, 0x9F, *b"ab", 0xFF, EOS], id="no UTF-8"),
        pytest.param([*b"ab", 0xF0, 0x9F], id="cut in a character"),
        pytest.param([*b"one STO", *b"P two", EOS], id="stop string across tokens"),
        pytest.param([*b"one ST", EOS], id="a stop string that does not come"),
    ],
)
async def test_streamed_text_equals_whole_text_and_decoding_at_once(tokens: list[int]) -> None:
    body = {"stop": ["STOP"], "logprobs": True, "top_logprobs": 2}
    script = scripted(tokens, finish="stop" if tokens[-1] == EOS else "length")
    whole = (await answer(ScriptedPool(script), body))["choices"][0]
    chunks = [chunk["choices"][0] for chunk in await stream(ScriptedPool(script), body)]
    text = bytes(b for t in tokens if t != EOS for b in (b"\xf0\x9f" if t == CAT_EMOJI_HEAD else [t])).decode(
        "utf-8", "replace"
    )
    assert whole["message"]["content"] == text.partition("STOP")[0]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == whole["message"]["content"]
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["stop_reason"] == whole["stop_reason"]
    entries = [entry for chunk in chunks for entry in (chunk["logprobs"] or {"content": []})["content"]]
    assert entries == whole["logprobs"]["content"]


async def test_every_token_has_its_logprob_and_the_chosen_one_is_among_the_top() -> None:
    choice = (await answer(ScriptedPool(scripted([0xF0, HELLO, EOS])), {"logprobs": True, "top_logprobs": 2}))[
        "choices"
    ][0]
    first, second, last = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert (first["token"], first["bytes"]) == ("\ufffd", [0xF0])
    assert (second["token"], second["bytes"]) == ("Hello", list(b"Hello"))
    assert second["logprob"] == scored(HELLO).logprob
    assert [(top["token"], top["bytes"]) for top in second["top_logprobs"]] == [
        ("Hello", list(b"Hello")),
        (" world", list(b" world")),
    ]
    assert (last["token"], last["bytes"]) == ("<eos>", list(b"<eos>"))


async def test_a_chosen_token_below_the_top_ones_is_added_to_them() -> None:
    from tritserve.pool.generation import ChoiceToken
    from tritserve.protocol import TokenLogprob

    token = TokenLogprob(ord("x"), -5.0, [(ord("a"), -0.5), (ord("b"), -1.0)])
    pool = ScriptedPool(lambda request: [ChoiceToken(0, token, "length")])
    entry = (await answer(pool, {"logprobs": True, "top_logprobs": 1}))["choices"][0]["logprobs"]["content"][0]
    assert [(top["token"], top["logprob"]) for top in entry["top_logprobs"]] == [("a", -0.5), ("x", -5.0)]
    pool = ScriptedPool(lambda request: [ChoiceToken(0, token, "length")])
    entry = (await answer(pool, {"logprobs": True}))["choices"][0]["logprobs"]["content"][0]
    assert entry["top_logprobs"] == []


async def test_top_logprobs_without_logprobs_are_refused() -> None:
    status, found, _ = await post(ScriptedPool(), {"top_logprobs": 1})
    assert (status, found["error"]["param"]) == (400, "top_logprobs")


async def test_a_stop_string_ends_its_choice_in_the_pool_and_names_itself() -> None:
    pool = ScriptedPool(scripted([*b"abcdefgh"], finish=None))
    choice = (await answer(pool, {"stop": "de"}))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("abc", "stop", "de")
    assert pool.generations[0].stopped_choices == [0]
    pool = ScriptedPool(scripted([*b"abcdefgh"], finish=None))
    choice = (await answer(pool, {"stop": "de", "include_stop_str_in_output": True}))["choices"][0]
    assert choice["message"]["content"] == "abcde"


async def test_a_stop_string_in_the_first_min_tokens_does_not_stop() -> None:
    pool = ScriptedPool(scripted([*b"ab.cd.ef"], finish=None))
    choice = (await answer(pool, {"stop": ".", "min_tokens": 3}))["choices"][0]
    assert choice["message"]["content"] == "ab.cd"
    assert pool.requests[0].min_tokens == 3


async def test_a_stop_token_is_named_and_shown_only_if_asked() -> None:
    body = {"stop_token_ids": [ord("!")]}
    pool = ScriptedPool(scripted([*b"ab!"]))
    choice = (await answer(pool, body))["choices"][0]
    assert (choice["message"]["content"], choice["stop_reason"]) == ("ab", ord("!"))
    assert pool.requests[0].stop_token_ids == {EOS, ord("!")}
    shown = await answer(ScriptedPool(scripted([*b"ab!"])), {**body, "include_stop_str_in_output": True})
    assert shown["choices"][0]["message"]["content"] == "ab!"


async def test_ignore_eos_leaves_only_the_clients_stop_tokens() -> None:
    pool = ScriptedPool()
    await answer(pool, {"ignore_eos": True, "stop_token_ids": [7], "max_tokens": 2})
    assert pool.requests[0].stop_token_ids == {7}


async def test_a_deadline_ends_the_choice_with_what_it_has() -> None:
    pool = ScriptedPool(lambda request: [*say(0, [*b"ab"], None), ChoiceEnd(0, "timeout")])
    front = byte_front(pool)
    async with http_client(front) as client:
        found = (await client.post("/chat/completions", json={"messages": HI, "timeout": 2.5})).json()
    choice = found["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "length", "timeout")
    assert pool.requests[0].deadline_seconds == 2.5
    assert front.records[0].outcome == "timeout"


async def test_choices_have_seeds_of_their_own_and_keep_their_order() -> None:
    pool = ScriptedPool()
    found = await answer(pool, {"n": 3, "seed": 42, "max_tokens": 5})
    seeds = [choice.seed for choice in pool.requests[0].choices]
    assert seeds[0] == 42
    assert len(set(seeds)) == 3
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in found["choices"]] == [
        bytes(pseudo_tokens(HI_IDS, seed, 5)).decode() for seed in seeds
    ]
    assert found["usage"]["completion_tokens"] == 15
    chunks = await stream(ScriptedPool(), {"n": 3, "seed": 42, "max_tokens": 5})
    for index, choice in enumerate(found["choices"]):
        parts = [c["choices"][0]["delta"] for c in chunks if c["choices"][0]["index"] == index]
        assert parts[0] == {"role": "assistant", "content": ""}
        assert "".join(part.get("content", "") for part in parts) == choice["message"]["content"]


@pytest.mark.parametrize(("seed", "expected"), [(-1, 2**64 - 1), (-(2**63), 2**63), (2**63 - 1, 2**63 - 1), (0, 0)])
async def test_seeds_are_any_int64_as_twos_complement(seed: int, expected: int) -> None:
    pool = ScriptedPool()
    await answer(pool, {"seed": seed, "max_tokens": 1})
    assert pool.requests[0].choices[0].seed == expected


async def test_without_a_seed_every_request_draws_one() -> None:
    pool = ScriptedPool()
    for _ in range(4):
        await answer(pool, {"max_tokens": 1})
    assert len({request.choices[0].seed for request in pool.requests}) == 4


async def test_absent_and_null_parameters_take_the_models_then_openais_defaults() -> None:
    pool = ScriptedPool()
    defaults = GenerationDefaults(temperature=0.6, top_p=0.9, top_k=20)
    async with http_client(byte_front(pool, defaults=defaults)) as client:
        await client.post("/chat/completions", json={"messages": HI, "temperature": None, "top_k": 3, "n": None})
    choice = pool.requests[0].choices[0]
    assert (choice.temperature, choice.top_p, choice.top_k, choice.min_p) == (0.6, 0.9, 3, 0.0)
    await answer(pool)
    choice = pool.requests[1].choices[0]
    assert (choice.temperature, choice.top_p, choice.top_k, choice.repetition_penalty) == (1.0, 1.0, 0, 1.0)


async def test_every_sampling_parameter_reaches_the_pool() -> None:
    pool = ScriptedPool()
    body = {
        "temperature": 1,
        "top_p": 0,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "logit_bias": {"5": -100, "260": 1.5},
        "allowed_token_ids": [9, 5, 9],
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 3,
        "priority": -7,
        "max_tokens": 4,
    }
    await answer(pool, body)
    choice = pool.requests[0].choices[0]
    assert (choice.temperature, choice.top_p, choice.top_k, choice.min_p) == (1.0, 0.0, 0, 0.1)
    assert (choice.repetition_penalty, choice.presence_penalty, choice.frequency_penalty) == (1.2, -2.0, 2.0)
    assert choice.logit_bias == {5: -100.0, 260: 1.5}
    assert choice.allowed_token_ids == [5, 9]
    assert choice.num_top_logprobs == 20
    assert pool.requests[0].priority == -7
    assert pool.requests[0].prompt_logprobs == -1


@pytest.mark.parametrize(
    ("body", "settings", "expected"),
    [
        ({}, {}, 256 - len(HI_IDS)),
        ({"max_tokens": 5}, {}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {}, 7),
        ({"max_tokens": 100_000}, {}, 256 - len(HI_IDS)),
        ({}, {"max_completion_tokens": 12}, 12),
        ({"max_tokens": 12}, {"max_completion_tokens": 12}, 12),
    ],
)
async def test_max_tokens_is_the_newer_name_then_the_older_then_what_is_left(
    body: dict[str, Any], settings: dict[str, Any], expected: int
) -> None:
    pool = ScriptedPool()
    await answer(pool, body, **settings)
    assert pool.requests[0].max_tokens == expected


async def test_more_than_the_servers_limit_of_max_tokens_is_refused() -> None:
    status, found, _ = await post(ScriptedPool(), {"max_tokens": 13}, max_completion_tokens=12)
    assert (status, found["error"]["param"]) == (400, "max_tokens")
    assert "12" in found["error"]["message"]


async def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers() -> None:
    pool = ScriptedPool(max_model_len=len(HI_IDS))
    status, found, _ = await post(pool, {})
    assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
    assert found["error"]["message"].count(str(len(HI_IDS))) == 2
    assert not pool.requests
    pool = ScriptedPool(max_model_len=len(HI_IDS) + 1)
    assert (await answer(pool))["usage"]["completion_tokens"] == 1


async def test_truncation_keeps_the_end_of_the_prompt() -> None:
    pool = ScriptedPool(max_model_len=6)
    await answer(pool, {"truncate_prompt_tokens": 4})
    assert pool.requests[0].prompt == HI_IDS[-4:]


async def test_roles_and_parts_reach_the_template() -> None:
    pool = ScriptedPool()
    front = byte_front(pool)
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": ""},
    ]
    body = {"messages": messages, "chat_template_kwargs": {"style": 1}}
    async with http_client(front) as client:
        assert (await client.post("/chat/completions", json=body)).status_code == 200
    assert front.text.chats == [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "a\nb", "name": "Ann"},
                {"role": "assistant", "content": "c"},
                {"role": "user", "content": ""},
            ],
            "add_generation_prompt": True,
            "continue_final_message": False,
            "template_kwargs": {"style": 1},
        }
    ]


async def test_the_last_message_can_be_continued() -> None:
    front = byte_front(ScriptedPool())
    messages = [*HI, {"role": "assistant", "content": "Once"}]
    async with http_client(front) as client:
        url = "/chat/completions"
        good = await client.post(url, json={"messages": messages, "continue_final_message": True})
        both = await client.post(
            url, json={"messages": messages, "continue_final_message": True, "add_generation_prompt": True}
        )
        users = await client.post(url, json={"messages": HI, "continue_final_message": True})
    assert good.status_code == 200
    chat = front.text.chats[0]
    assert (chat["add_generation_prompt"], chat["continue_final_message"]) == (False, True)
    assert (both.status_code, users.status_code) == (400, 400)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (None, "messages"),
        ("Hi", "messages"),
        ([{"role": "robot", "content": "Hi"}], "messages[0].role"),
        ([{"content": "Hi"}], "messages[0].role"),
        ([*HI, {"role": "user", "content": 3}], "messages[1].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "messages[0].tool_call_id"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": "x", "tool_call_id": "1"}], "messages[0].tool_call_id"),
        ([{"role": "function", "content": "x", "name": "f"}], "messages[0].role"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0].function"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            "messages[0].content[0]",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "Hi", "name": "<|end|>"}], "messages[0].name"),
        (HI * 5, "messages"),
    ],
)
async def test_messages_that_cannot_be_served_are_refused_by_name(messages: object, param: str) -> None:
    pool = ScriptedPool()
    status, found, _ = await post(pool, {"messages": messages}, max_messages=4)
    assert (status, found["error"]["type"], found["error"]["param"]) == (400, "invalid_request_error", param)
    assert not pool.requests


async def test_null_where_openai_sends_null_is_absent() -> None:
    nulls = dict.fromkeys(
        [
            *(
                "model",
                "stream",
                "stream_options",
                "n",
                "seed",
                "temperature",
                "top_p",
                "stop",
                "logit_bias",
                "logprobs",
            ),
            *("top_logprobs", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "response_format", "user"),
            *("presence_penalty", "frequency_penalty", "functions", "audio", "whatever"),
        ]
    )
    status, _, headers = await post(ScriptedPool(), nulls)
    assert status == 200
    assert "x-tritserve-ignored" not in headers


async def test_what_cannot_change_the_answer_and_what_nobody_knows_is_listed() -> None:
    body = {"user": "me", "metadata": {}, "store": False, "frobnicate": 1, "bad name\r\nx: y": 1}
    status, _, headers = await post(ScriptedPool(), body)
    assert status == 200
    assert headers["x-tritserve-ignored"] == "user, metadata, store, frobnicate, +1"
    many = {f"unknown_{index}": index for index in range(20)}
    headers = (await post(ScriptedPool(), many))[2]
    assert headers["x-tritserve-ignored"] == ", ".join([f"unknown_{index}" for index in range(16)]) + ", +4"
    message = {"role": "user", "content": "Hi", "mood": "good"}
    headers = (await post(ScriptedPool(), {"messages": [message]}))[2]
    assert headers["x-tritserve-ignored"] == "messages.mood"


async def test_names_inside_parts_and_stream_options_are_listed_too() -> None:
    parts = [
        {"type": "text", "text": "Hi", "cache_control": {}},
        {"type": "text", "text": "Ho", "cache_control": {}, "x": 1},
    ]
    options = {"include_obfuscation": False, "include_usage": None, "y": 1}
    async with http_client(byte_front(ScriptedPool())) as client:
        body = {"messages": [{"role": "user", "content": parts}], "stream": True, "stream_options": options}
        response = await client.post("/chat/completions", json=body)
        assert response.status_code == 200
        assert response.headers["x-tritserve-ignored"] == (
            "stream_options.include_obfuscation, stream_options.y, messages.content.cache_control, messages.content.x"
        )
        body["stream_options"] = {"continuous_usage_stats": True}
        refused = await client.post("/chat/completions", json=body)
    assert refused.json()["error"]["param"] == "stream_options.continuous_usage_stats"
    async with http_client(byte_front(ScriptedPool(), strict_parameters=True)) as client:
        body["stream_options"] = {"include_obfuscation": False}
        refused = await client.post("/chat/completions", json=body)
    assert refused.json()["error"]["param"] == "messages[0].content[1].x"


async def test_strict_mode_refuses_unknown_names_but_not_known_ones() -> None:
    status, found, _ = await post(ScriptedPool(), {"frobnicate": 1}, strict_parameters=True)
    assert (status, found["error"]["param"], found["error"]["code"]) == (400, "frobnicate", "unknown_parameter")
    status, _, headers = await post(ScriptedPool(), {"user": "me"}, strict_parameters=True)
    assert (status, headers["x-tritserve-ignored"]) == (200, "user")
    message = {"role": "user", "content": "Hi", "mood": "good"}
    status, found, _ = await post(ScriptedPool(), {"messages": [message]}, strict_parameters=True)
    assert (status, found["error"]["param"]) == (400, "messages[0].mood")


@pytest.mark.parametrize(
    ("name", "asking", "not_asking"),
    [
        ("functions", [{}], []),
        ("audio", {}, None),
        ("modalities", ["text", "audio"], ["text"]),
        ("logits_processors", ["x"], []),
        ("skip_special_tokens", False, True),
        ("reasoning_effort", "high", None),
        ("chat_template", "{{ x }}", None),
        ("echo", True, False),
    ],
)
async def test_known_parameters_that_are_not_served_are_refused_unless_they_ask_for_nothing(
    name: str, asking: object, not_asking: object
) -> None:
    status, found, _ = await post(ScriptedPool(), {name: asking})
    assert (status, found["error"]["param"], found["error"]["code"]) == (400, name, "unsupported_parameter")
    status, _, headers = await post(ScriptedPool(), {name: not_asking})
    assert status == 200
    assert "x-tritserve-ignored" not in headers


async def test_token_ids_are_returned_when_asked() -> None:
    body = {"return_token_ids": True}
    found = await answer(ScriptedPool(scripted([HELLO, EOS])), body)
    assert found["prompt_token_ids"] == HI_IDS
    assert found["choices"][0]["token_ids"] == [HELLO, EOS]
    chunks = await stream(ScriptedPool(scripted([HELLO, EOS])), body)
    assert chunks[0]["prompt_token_ids"] == HI_IDS
    assert [t for chunk in chunks for t in chunk["choices"][0].get("token_ids", [])] == [HELLO, EOS]


async def test_names_of_the_model_are_checked_and_answered_with() -> None:
    assert (await answer(ScriptedPool(), {"model": "org/tiny"}))["model"] == "org/tiny"
    status, found, _ = await post(ScriptedPool(), {"model": "gpt-4"})
    assert (status, found["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("The queue is full.", reason="queue_full", retry_after_seconds=2.0), 429),
        (Unavailable("The server is shutting down."), 503),
        (WorkerFailed("This prompt is refused."), 500),
        (InvalidRequest("No."), 400),
    ],
)
async def test_refusals_have_their_status_also_when_streaming(error: Exception, status: int, streams: bool) -> None:
    pool = ScriptedPool()
    pool.refusal = error  # type: ignore[assignment]
    found = await post(pool, {"stream": streams})
    assert found[0] == status
    assert found[1]["error"]["message"] == str(error)


async def test_a_server_without_a_worker_says_so() -> None:
    pool = ScriptedPool(max_model_len=0)
    status, _, headers = await post(pool, {})
    assert status == 503
    assert "retry-after" in headers


async def test_an_error_behind_the_first_byte_is_one_frame_and_no_done() -> None:
    pool = ScriptedPool(lambda request: [*say(0, [*b"ab"], None), NumericFault("Not finite.")])
    front = byte_front(pool)
    async with http_client(front) as client:
        response = await client.post("/chat/completions", json={"messages": HI, "stream": True})
        whole = ScriptedPool(lambda request: [*say(0, [*b"ab"], None), NumericFault("Not finite.")])
    frames = response.text.split("\n\n")
    assert response.status_code == 200
    assert frames[-1] == ""
    assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "numeric_fault"
    assert "[DONE]" not in response.text
    assert (front.records[0].outcome, front.records[0].error_code) == ("error", "numeric_fault")
    assert (await post(whole, {}))[0] == 500


async def test_salts_and_keys_separate_prefix_caches() -> None:
    pool = ScriptedPool()
    for body in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"cache_salt": "a"}):
        await answer(pool, body)
    none, first, second, again = [request.cache_salt for request in pool.requests]
    assert none == b""
    assert first == again
    assert len({none, first, second}) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 100.5}}, "logit_bias.5"),
        ({"logit_bias": {str(i): 1 for i in range(11)}}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [VOCAB_SIZE]}, "allowed_token_ids"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"timeout": 601}, "timeout"),
        ({"priority": 1}, "priority"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
    ],
)
async def test_limits_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    pool = ScriptedPool()
    status, found, _ = await post(pool, body, max_logit_bias=10)
    assert (status, found["error"]["type"], found["error"]["param"]) == (400, "invalid_request_error", param)
    assert not pool.requests


async def test_equal_best_of_is_accepted() -> None:
    assert len((await answer(ScriptedPool(), {"n": 2, "best_of": 2, "max_tokens": 1}))["choices"]) == 2

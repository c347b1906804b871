"""POST /v1/completions: prompts of every shape, echo, log-probabilities, streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from byte_front import CAT_EMOJI_HEAD, EOS, HELLO, VOCAB_SIZE, WORLD, byte_front, http_client
from scripted_pool import ScriptedPool, prompt_scores, pseudo_tokens, say, scored, scripted

from tritserve.errors import Overloaded
from tritserve.pool.generation import ChoiceEnd


async def post(pool: ScriptedPool, body: dict[str, Any], **settings: Any) -> tuple[int, Any]:
    """Send a completion request; return status and JSON."""
    async with http_client(byte_front(pool, **settings)) as client:
        response = await client.post("/completions", json=body)
        return response.status_code, response.json()


async def answer(pool: ScriptedPool, **body: Any) -> Any:
    """Return a good answer's JSON."""
    status, found = await post(pool, body)
    assert status == 200, found
    return found


async def stream(pool: ScriptedPool, **body: Any) -> list[Any]:
    """Return a stream's events as JSON, checked to end with [DONE]."""
    async with http_client(byte_front(pool)) as client:
        response = await client.post("/completions", json={"stream": True, **body})
    assert response.status_code == 200, response.text
    frames = response.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def joined(chunks: list[Any], index: int) -> dict[str, Any]:
    """Put one choice's chunks together as a client would."""
    parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    logprobs: dict[str, list[Any]] = {}
    for part in parts:
        for key, values in (part["logprobs"] or {}).items():
            logprobs.setdefault(key, []).extend(values)
    assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["text"] == ""
    return {
        "text": "".join(part["text"] for part in parts),
        "logprobs": logprobs or None,
        "finish_reason": parts[-1]["finish_reason"],
        "stop_reason": parts[-1]["stop_reason"],
    }


def without_index(choice: dict[str, Any]) -> dict[str, Any]:
    """Return what ``joined`` shows of a choice."""
    return {key: choice[key] for key in ("text", "logprobs", "finish_reason", "stop_reason")}


async def test_whole_answer_has_every_field_of_the_official_shape() -> None:
    pool = ScriptedPool(scripted([HELLO, WORLD, EOS]))
    found = await answer(pool, model="tiny", prompt="Say")
    assert found.pop("id").startswith("cmpl-")
    assert found.pop("created") > 1_700_000_000
    assert found.pop("system_fingerprint").startswith("fp_")
    assert found == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [
            {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_sixteen_tokens_are_the_default() -> None:
    pool = ScriptedPool()
    assert (await answer(pool, prompt="Say"))["choices"][0]["finish_reason"] == "length"
    assert pool.requests[0].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([97, 98], [[97, 98]]),
        ([[97, 98], [99]], [[97, 98], [99]]),
        ("a<eos>", [[97, EOS]]),
        ("<eos>", [[EOS]]),
        ("\ufeff", [[0xEF, 0xBB, 0xBF]]),
        ([VOCAB_SIZE - 1], [[VOCAB_SIZE - 1]]),
    ],
)
async def test_prompts_have_four_shapes(prompt: object, expected: list[list[int]]) -> None:
    pool = ScriptedPool()
    await answer(pool, prompt=prompt, max_tokens=1)
    assert [request.prompt for request in pool.requests] == expected


async def test_special_tokens_in_a_prompt_can_be_left_as_text() -> None:
    pool = ScriptedPool()
    await answer(pool, prompt="<eos>", parse_special=False, max_tokens=1)
    assert pool.requests[0].prompt == [*b"<eos>"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [[]],
        [""],
        ["a", ""],
        [[1], []],
        [1, "a"],
        [[1], "a"],
        [1.5],
        [True],
        [[1, None]],
        3,
        {"a": 1},
        None,
        [-1],
        [VOCAB_SIZE],
        [[1], [2**31]],
        [2**63],
        ["a"] * 5,
    ],
)
async def test_empty_mixed_and_foreign_prompts_are_refused(prompt: object) -> None:
    pool = ScriptedPool()
    status, found = await post(pool, {"prompt": prompt}, max_prompts=4)
    assert (status, found["error"]["param"]) == (400, "prompt")
    assert not pool.requests


async def test_a_request_without_a_prompt_is_refused() -> None:
    status, found = await post(ScriptedPool(), {})
    assert (status, found["error"]["param"], found["error"]["code"]) == (400, "prompt", "missing_required_parameter")


async def test_several_prompts_with_several_choices_are_answered_prompt_by_prompt() -> None:
    pool = ScriptedPool()
    body = {"prompt": ["ab", "c", "de"], "n": 2, "seed": 5, "max_tokens": 4}
    found = await answer(pool, **body)
    seeds = [choice.seed for choice in pool.requests[0].choices]
    expected = [bytes(pseudo_tokens([*p], seed, 4)).decode() for p in (b"ab", b"c", b"de") for seed in seeds]
    assert [choice["index"] for choice in found["choices"]] == list(range(6))
    assert [choice["text"] for choice in found["choices"]] == expected
    assert found["usage"]["prompt_tokens"] == 5
    assert found["usage"]["completion_tokens"] == 24
    chunks = await stream(ScriptedPool(), **body)
    assert [joined(chunks, index)["text"] for index in range(6)] == expected


async def test_a_refused_prompt_stops_the_ones_before_it() -> None:
    pool = ScriptedPool()
    pool.refusal = Overloaded("The queue is full.", reason="queue_full", retry_after_seconds=1.0)
    pool.refuse_from = 2
    status, _ = await post(pool, {"prompt": ["a", "b", "c"]})
    assert status == 429
    assert [generation.was_aborted for generation in pool.generations] == [True, True]


async def test_more_choices_than_the_queue_holds_are_refused_for_good() -> None:
    status, found = await post(ScriptedPool(), {"prompt": ["a", "b", "c"], "n": 2}, queue_limit=5)
    assert (status, found["error"]["type"]) == (400, "invalid_request_error")


async def test_logprobs_are_four_lists_with_bytes_spelt_out() -> None:
    found = await answer(ScriptedPool(scripted([CAT_EMOJI_HEAD, 0x90, 0x88, HELLO, EOS])), prompt="a", logprobs=1)
    choice = found["choices"][0]
    assert choice["text"] == "🐈Hello"
    ids = [CAT_EMOJI_HEAD, 0x90, 0x88, HELLO, EOS]
    keys = ["bytes:\\xf0\\x9f", "bytes:\\x90", "bytes:\\x88", "Hello", "<eos>"]
    assert choice["logprobs"] == {
        "text_offset": [0, 0, 0, 1, 6],
        "token_logprobs": [scored(token).logprob for token in ids],
        "tokens": keys,
        "top_logprobs": [{key: scored(token).logprob} for key, token in zip(keys, ids, strict=True)],
    }


async def test_logprobs_zero_shows_the_chosen_token_alone() -> None:
    pool = ScriptedPool(scripted([HELLO], finish="length"))
    logprobs = (await answer(pool, prompt="a", logprobs=0, max_tokens=1))["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"Hello": scored(HELLO).logprob}]


async def test_echo_shows_the_prompt_first() -> None:
    body = {"prompt": "Say <eos>", "echo": True, "max_tokens": 3, "seed": 1}
    found = (await answer(ScriptedPool(), **body))["choices"][0]
    assert found["text"] == "Say <eos>" + bytes(pseudo_tokens([*b"Say ", EOS], 1, 3)).decode()
    chunks = await stream(ScriptedPool(), **body)
    assert chunks[0]["choices"][0]["text"] == "Say <eos>"
    assert joined(chunks, 0) == without_index(found)


async def test_echo_with_logprobs_scores_the_prompt_and_nothing_need_be_generated() -> None:
    pool = ScriptedPool()
    prompt = [*"aé".encode(), HELLO, EOS, ord("z")]
    found = await answer(pool, prompt=prompt, echo=True, logprobs=2, max_tokens=0)
    assert (pool.requests[0].max_tokens, pool.requests[0].prompt_logprobs) == (0, 2)
    choice = found["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("aéHello<eos>z", "length")
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "Hello", "<eos>", "z"]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 7, 12]
    assert logprobs["token_logprobs"] == [None, *(scored(token).logprob for token in prompt[1:])]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][5] == {"z": scored(ord("z")).logprob, "{": scored(ord("z"), 2).top[1][1]}
    assert found["usage"]["completion_tokens"] == 0


async def test_echo_with_logprobs_puts_the_completions_offsets_behind_the_prompt() -> None:
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "n": 2, "seed": 3, "max_tokens": 3}
    found = await answer(ScriptedPool(), **body)
    for choice in found["choices"]:
        assert choice["text"].startswith("ab")
        assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        assert choice["logprobs"]["token_logprobs"][:2] == [None, scored(ord("b")).logprob]
    chunks = await stream(ScriptedPool(), **body)
    for index in range(2):
        assert joined(chunks, index) == without_index(found["choices"][index])


async def test_tokens_that_come_before_the_last_score_wait_for_the_prompt() -> None:
    def script(request: Any) -> list[Any]:
        first, second = prompt_scores(request)
        return [*say(1, [*b"x"], None), first, *say(0, [*b"y"], None), second, *say(0, [EOS]), *say(1, [EOS])]

    body = {"prompt": "abc", "echo": True, "logprobs": 0, "n": 2}
    chunks = await stream(ScriptedPool(script), **body)
    assert [chunk["choices"][0]["text"] for chunk in chunks[:4]] == ["abc", "abc", "x", "y"]
    assert [joined(chunks, index)["text"] for index in range(2)] == ["abcy", "abcx"]


async def test_a_prompt_of_one_token_has_no_scores_to_wait_for() -> None:
    pool = ScriptedPool(lambda request: [ChoiceEnd(0, "length")])
    found = await answer(pool, prompt=[97], echo=True, logprobs=1, max_tokens=0)
    assert found["choices"][0]["logprobs"] == {
        "text_offset": [0],
        "token_logprobs": [None],
        "tokens": ["a"],
        "top_logprobs": [None],
    }


async def test_a_deadline_before_the_prompt_is_scored_still_answers_whole() -> None:
    pool = ScriptedPool(lambda request: [prompt_scores(request)[0], ChoiceEnd(0, "timeout")])
    found = await answer(pool, prompt="abcd", echo=True, logprobs=1)
    choice = found["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("abcd", "length", "timeout")
    scores = [scored(token).logprob for token in b"bc"]
    assert choice["logprobs"]["token_logprobs"] == [None, *scores, None]
    assert choice["logprobs"]["top_logprobs"][3] is None


async def test_nothing_to_generate_is_allowed_only_with_echo() -> None:
    status, found = await post(ScriptedPool(), {"prompt": "a", "max_tokens": 0})
    assert (status, found["error"]["param"]) == (400, "max_tokens")
    found = await answer(ScriptedPool(), prompt="ab", max_tokens=0, echo=True)
    assert found["choices"][0]["text"] == "ab"
    assert found["usage"]["total_tokens"] == 2


async def test_a_prompt_may_fill_the_context_if_nothing_is_generated() -> None:
    pool = ScriptedPool(max_model_len=3)
    assert (await post(pool, {"prompt": "abc", "max_tokens": 0, "echo": True}))[0] == 200
    status, found = await post(pool, {"prompt": "abc", "max_tokens": 1})
    assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
    status, found = await post(pool, {"prompt": "abcd", "max_tokens": 0, "echo": True})
    assert (status, found["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("more", [{}, {"truncate_prompt_tokens": 2}])
async def test_a_hopelessly_long_prompt_is_refused_before_it_is_encoded(more: dict[str, Any]) -> None:
    pool = ScriptedPool(max_model_len=10)
    front = byte_front(pool)
    longest = front.text.tokenizer.max_piece_bytes * 10

    def encode(text: str, *, parse_special: bool = True) -> list[int]:
        raise AssertionError("encoded")

    front.text.encode_prompt = encode  # type: ignore[method-assign]
    async with http_client(front) as client:
        response = await client.post("/completions", json={"prompt": "a" * (longest + 1), **more})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "at least 11" in response.json()["error"]["message"]


async def test_prompts_behind_one_that_is_too_long_are_not_encoded() -> None:
    front = byte_front(ScriptedPool(max_model_len=4))
    encoded: list[str] = []

    def encode(text: str, *, parse_special: bool = True) -> list[int]:
        encoded.append(text)
        return list(text.encode())

    front.text.encode_prompt = encode  # type: ignore[method-assign]
    async with http_client(front) as client:
        response = await client.post("/completions", json={"prompt": ["abc", "abcde", "abc"]})
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert encoded == ["abc", "abcde"]


async def test_stop_strings_keep_the_logprobs_of_what_they_swallow() -> None:
    body = {"prompt": "a", "stop": ["YZ"], "logprobs": 0}
    pool = ScriptedPool(scripted([*b"abYZcd"], finish=None))
    choice = (await answer(pool, **body))["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", "YZ")
    assert choice["logprobs"]["tokens"] == ["a", "b", "Y", "Z"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 2]
    chunks = await stream(ScriptedPool(scripted([*b"abYZcd"], finish=None)), **body)
    assert joined(chunks, 0) == without_index(choice)


async def test_usage_and_token_ids_come_when_asked() -> None:
    body = {"prompt": "ab", "return_token_ids": True, "stream_options": {"include_usage": True}}
    chunks = await stream(ScriptedPool(scripted([HELLO, EOS])), **body)
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [97, 98]
    assert [t for chunk in chunks[:-1] for t in chunk["choices"][0].get("token_ids", [])] == [HELLO, EOS]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 4)
    found = await answer(ScriptedPool(scripted([HELLO, EOS])), prompt="ab", return_token_ids=True)
    assert found["choices"][0]["prompt_token_ids"] == [97, 98]
    assert found["choices"][0]["token_ids"] == [HELLO, EOS]


async def test_truncated_prompts_echo_what_was_kept() -> None:
    pool = ScriptedPool()
    found = await answer(pool, prompt="abcdef", truncate_prompt_tokens=2, echo=True, max_tokens=0)
    assert pool.requests[0].prompt == [*b"ef"]
    assert found["choices"][0]["text"] == "ef"


@pytest.mark.parametrize("body", [{"suffix": "x"}, {"logprobs": 21}, {"logprobs": True}, {"echo": 1}])
async def test_what_this_endpoint_does_not_do_is_refused(body: dict[str, Any]) -> None:
    status, found = await post(ScriptedPool(), {"prompt": "a", **body})
    assert (status, found["error"]["param"]) == (400, next(iter(body)))

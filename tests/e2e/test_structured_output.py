"""Answers that conform: what a user of the official client asks for, and what nobody may ask for."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import jsonschema
import openai
import pytest
from nasty_schemas import nasty_schema
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from live_server import LiveServer
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

MODEL = "demo"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me about a cat named Tom."}]


class Toy(BaseModel):
    """A part of ``Cat``."""

    color: Literal["red", "green", "blue"]
    size: int = Field(ge=1, le=9)


class Cat(BaseModel):
    """What the client's parse helper asks for."""

    name: str = Field(max_length=12)
    age: int | None
    toys: list[Toy] = Field(max_length=2)
    happy: bool


def test_the_clients_parse_helper_returns_the_users_own_class(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Cat, seed=1, max_tokens=300)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Cat)


def test_the_clients_stream_helper_parses_what_was_streamed(sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Cat, seed=2, max_tokens=300
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion().choices[0].message
    assert isinstance(final.parsed, Cat)
    assert final.parsed == Cat.model_validate_json(text)


def ask_schema(sdk: OpenAI, seed: int) -> str:
    schema = nasty_schema(seed)
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        seed=seed,
        max_tokens=200,
        temperature=1.5,
        response_format={"type": "json_schema", "json_schema": {"name": "nasty", "schema": schema, "strict": True}},
    )
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content or ""))
    return choice.finish_reason


def test_every_answer_to_a_nasty_schema_conforms_or_was_cut_by_its_length(sdk: OpenAI) -> None:
    reasons = [ask_schema(sdk, seed) for seed in range(25)]
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") >= 15


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_answer_to_five_hundred_nasty_schemas_conforms_or_was_cut_by_its_length(sdk: OpenAI) -> None:
    reasons = [ask_schema(sdk, seed) for seed in range(500)]
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") >= 300


def test_any_object_is_an_object(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, seed=4, max_tokens=400, n=4, response_format={"type": "json_object"}
    )
    for choice in answer.choices:
        assert choice.finish_reason in ("stop", "length")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize(
    ("demand", "pattern"),
    [
        ({"regex": "[A-Z][a-z]{1,8} is (very )?(big|small)\\."}, "[A-Z][a-z]{1,8} is (very )?(big|small)\\."),
        ({"choice": [" yes", " no", " a|b", " \U0001f408"]}, " yes| no| a\\|b| \U0001f408"),
        ({"json": {"const": "日本\n"}}, '"日本\\\\n"'),
        ({"grammar": 'start: "(" start ")" | "x"'}, "\\(*x\\)*"),
    ],
)
def test_text_completions_and_every_choice_of_them_conform(sdk: OpenAI, demand: dict[str, Any], pattern: str) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt="Tom", seed=1, n=3, max_tokens=40, extra_body={"structured_outputs": demand}
    )
    for choice in answer.choices:
        if choice.finish_reason == "stop":
            assert re.fullmatch(pattern, choice.text), choice.text
    assert any(choice.finish_reason == "stop" for choice in answer.choices)


def test_log_probabilities_are_those_of_the_model_whatever_the_grammar(sdk: OpenAI) -> None:
    """The one token that is allowed has the log-probability that the model gives it, not 0; echoing the text scores it alike."""
    first = sdk.completions.create(
        model=MODEL,
        prompt="Tom",
        max_tokens=20,
        logprobs=0,
        temperature=0,
        extra_body={"structured_outputs": {"choice": [" sleeps"]}, "return_token_ids": True},
    ).choices[0]
    assert first.logprobs is not None
    ids = first.model_extra or {}
    again = sdk.completions.create(
        model=MODEL, prompt=[*ids["prompt_token_ids"], *ids["token_ids"]], max_tokens=0, logprobs=0, echo=True
    ).choices[0]
    assert again.logprobs is not None
    num_prompt = len(ids["prompt_token_ids"])
    assert again.logprobs.token_logprobs is not None
    assert again.logprobs.token_logprobs[num_prompt:] == first.logprobs.token_logprobs
    assert min(first.logprobs.token_logprobs or [0]) < -1


BOMBS: dict[str, dict[str, Any]] = {
    "brackets": {"structured_outputs": {"regex": "(" * 30_000 + "a" + ")" * 30_000}},
    "lark brackets": {"structured_outputs": {"grammar": "start: " + "(" * 30_000 + '"a"' + ")" * 30_000}},
    "itself": {"structured_outputs": {"json": {"$ref": "#"}}},
    "remote": {"structured_outputs": {"json": {"$ref": "http://127.0.0.1:1/x.json"}}},
    "enum": {"structured_outputs": {"json": {"enum": [f"v{i}" for i in range(100_000)]}}},
    "deep": {"structured_outputs": {"json": '{"items":' * 5_000 + "{}" + "}" * 5_000}},
    "alternation": {"structured_outputs": {"regex": "|".join(f"[a-{chr(98 + i % 24)}]*w{i}" for i in range(6_000))}},
    "nothing": {"structured_outputs": {"regex": "[^\\s\\S]"}},
}


def test_grammar_bombs_are_refused_while_others_go_on(live: LiveServer, sdk: OpenAI) -> None:
    """Each is refused by name; a stream beside them has its usual tokens, and the server and its worker stay alive."""
    texts: list[str] = []

    def read() -> None:
        chunks = sdk.completions.create(
            model=MODEL, prompt="Tom", seed=3, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        texts.extend(chunk.choices[0].text for chunk in chunks)

    reader = threading.Thread(target=read)
    reader.start()
    for name, bomb in BOMBS.items():
        begun = time.monotonic()
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.completions.create(model=MODEL, prompt="Tom", extra_body=bomb)
        assert time.monotonic() - begun < 40, name
        assert caught.value.param in (None, *(f"structured_outputs.{kind}" for kind in ("regex", "grammar", "json")))
    reader.join(60)
    quiet = sdk.completions.create(model=MODEL, prompt="Tom", seed=3, max_tokens=400, extra_body={"ignore_eos": True})
    assert "".join(texts) == quiet.choices[0].text


@pytest.mark.parametrize("regex", ["(a+)+$", "a{1,100000}"])
def test_expressions_that_others_choke_on_are_answered(sdk: OpenAI, regex: str) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt="Tom", max_tokens=60, extra_body={"structured_outputs": {"regex": regex}}
    )
    assert re.fullmatch("a+", answer.choices[0].text)


def test_an_expression_that_grows_past_its_limits_on_the_way_ends_its_request_by_name(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.completions.create(
            model=MODEL,
            prompt="Tom",
            max_tokens=60,
            extra_body={"structured_outputs": {"regex": "((a{1,100}){1,100}){1,100}"}},
        )
    assert caught.value.code == "grammar_too_complex"


def test_what_grammars_cost_is_measured(live: LiveServer, sdk: OpenAI) -> None:
    def count() -> list[float]:
        names = ("grammar_mask_seconds_count", "grammar_cache_hits_total", "grammar_rejected_total")
        return [live.metric(name) for name in names]

    before = count()
    demand = {"structured_outputs": {"regex": "measured[0-9]"}}
    for _ in range(2):
        sdk.completions.create(model=MODEL, prompt="Tom", max_tokens=20, extra_body=demand)
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=MODEL, prompt="Tom", extra_body={"structured_outputs": {"regex": "("}})
    masks, hits, rejected = (now - then for now, then in zip(count(), before, strict=True))
    assert masks >= 4
    assert (hits, rejected) == (1, 1)

"""``response_format`` and ``structured_outputs``: which grammar is asked for, and what is refused before anything is queued."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from byte_front import byte_front, http_client
from scripted_pool import ScriptedPool

from tritserve.errors import Overloaded
from tritserve.protocol import Grammar

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}, "required": ["b"]}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
TEXT = {"prompt": "Hi", "max_tokens": 4}
ROUTES = [("chat/completions", CHAT), ("completions", TEXT)]


async def post(
    body: dict[str, Any], route: tuple[str, dict[str, Any]] = ROUTES[0], refusal: Any = None, **settings: Any
) -> tuple[int, Any, ScriptedPool, dict[str, str]]:
    path, base = route
    pool = ScriptedPool()
    pool.grammar_refusal = refusal
    async with http_client(byte_front(pool, **settings)) as client:
        answer = await client.post(path, json={**base, **body})
    return answer.status_code, answer.json(), pool, dict(answer.headers)


def json_schema(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}}


@pytest.mark.parametrize("route", ROUTES, ids=["chat", "text"])
@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        (json_schema(SCHEMA), Grammar("json_schema", json.dumps(SCHEMA, separators=(",", ":")))),
        (json_schema(SCHEMA, strict=True), Grammar("json_schema", json.dumps(SCHEMA, separators=(",", ":")))),
        ({"response_format": {"type": "json_object"}}, Grammar("json_schema", '{"type":"object"}')),
        ({"structured_outputs": {"json": {"const": "é"}}}, Grammar("json_schema", '{"const":"é"}')),
        ({"structured_outputs": {"json": '{ "const": 1 }'}}, Grammar("json_schema", '{ "const": 1 }')),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Grammar("lark", 'start: "a"')),
    ],
)
async def test_the_pool_gets_the_grammar_that_was_tried_out(
    route: tuple[str, dict[str, Any]], body: dict[str, Any], grammar: Grammar
) -> None:
    status, _, pool, headers = await post({**body, "n": 2}, route)
    assert status == 200
    assert pool.grammars == [grammar]
    assert [request.grammar for request in pool.requests] == [grammar]
    assert "x-tritserve-ignored" not in headers


@pytest.mark.parametrize(
    "body", [{"response_format": {"type": "text"}}, {"response_format": None}, {"structured_outputs": None}]
)
async def test_what_asks_for_nothing_has_no_grammar(body: dict[str, Any]) -> None:
    status, _, pool, _ = await post(body)
    assert (status, pool.grammars, pool.requests[0].grammar) == (200, [], None)


async def test_a_choice_is_an_expression_that_matches_each_text_and_nothing_else() -> None:
    texts = ["yes", "no!", "a|b", "(", "\\d", "日本", " ", "a\nb", "^x$"]
    _, _, pool, _ = await post({"structured_outputs": {"choice": texts}})
    source = re.sub(r"\\x\{([0-9A-F]+)\}", lambda code: re.escape(chr(int(code[1], 16))), pool.grammars[0].source)
    assert all(re.fullmatch(source, text) for text in texts)
    assert not any(re.fullmatch(source, text) for text in ["a", "b", "1", "x", "", "yesno!"])


@pytest.mark.parametrize("route", ROUTES, ids=["chat", "text"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (json_schema([]), "response_format.json_schema.schema"),
        (json_schema(SCHEMA, strict="yes"), "response_format.json_schema.strict"),
        (json_schema(SCHEMA, name="a b"), "response_format.json_schema.name"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a", "structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "a"}, **json_schema(SCHEMA)}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "stop": "x"}, "stop"),
        ({"structured_outputs": {"regex": "a"}, "include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs.regex"),
        (json_schema({"enum": [f"v{i}" for i in range(20_000)]}), "response_format.json_schema.schema"),
    ],
)
async def test_what_is_wrong_is_refused_by_name_and_tried_nowhere(
    route: tuple[str, dict[str, Any]], body: dict[str, Any], param: str
) -> None:
    status, answer, pool, _ = await post(body, route)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["param"] == param
    assert not pool.grammars
    assert not pool.requests


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (json_schema(SCHEMA), "response_format.json_schema.schema"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    ],
)
async def test_a_grammar_that_was_found_unusable_is_refused_before_anything_is_queued(
    body: dict[str, Any], param: str
) -> None:
    status, answer, pool, _ = await post(body, refusal="no text conforms to it")
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, param, "invalid_grammar")
    assert "no text conforms to it" in error["message"]
    assert not pool.requests


async def test_when_too_many_grammars_wait_the_answer_is_to_come_back() -> None:
    busy = Overloaded("busy", reason="queue_full", retry_after_seconds=1.0)
    status, _, _, headers = await post({"structured_outputs": {"regex": "a"}}, refusal=busy)
    assert status == 429
    assert headers["retry-after"] == "1"


async def test_unknown_names_inside_are_listed() -> None:
    body = {"response_format": {"type": "json_object", "mood": 1}}
    assert (await post(body))[3]["x-tritserve-ignored"] == "response_format.mood"
    status, answer, _, _ = await post(body, strict_parameters=True)
    assert (status, answer["error"]["param"]) == (400, "response_format.mood")


async def test_the_limit_on_a_grammar_is_a_setting() -> None:
    body = {"structured_outputs": {"regex": "a" * 2000}}
    assert (await post(body, max_grammar_bytes=1024))[0] == 400
    assert (await post(body, max_grammar_bytes=4096))[0] == 200

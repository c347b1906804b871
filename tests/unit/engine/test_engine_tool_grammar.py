"""What a grammar of calls lets through is what the reader of calls reads, with arguments that conform."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
from demo_grammar import END, allowed_by, matcher_of, vocabulary, wander
from nasty_schemas import nasty_schema

from tritserve.protocol import Grammar
from tritserve.text.tools import CallReader, Function, call_grammar


def read(text: str) -> tuple[str, list[list[str]]]:
    reader, content, calls = CallReader(), "", []
    for found in [*reader.feed(text), *reader.flush()]:
        if found.call is None:
            content += found.text
        elif found.name is not None:
            calls.append([found.name, ""])
        else:
            calls[found.call][1] += found.text
    assert reader.num_whole == len(calls)
    return content, calls


def functions(seed: int) -> dict[str, Function]:
    return {name: Function(name, None, nasty_schema(seed + index)) for index, name in enumerate(("f", "get-it_2"))}


@pytest.mark.parametrize("many", [True, False])
def test_forced_calls_conform_to_their_schemas(many: bool) -> None:
    num_read = 0
    for seed in range(0, 24, 2):
        known = functions(seed)
        source = call_grammar(list(known.values()), must_call=True, many=many)
        text, ended = wander(Grammar("lark", source), random.Random(seed))
        if not ended:
            continue
        content, calls = read(text.decode())
        assert content == ""
        assert len(calls) >= 1 if many else len(calls) == 1
        for name, arguments in calls:
            jsonschema.Draft202012Validator(known[name].parameters).validate(json.loads(arguments))
        num_read += len(calls)
    assert num_read >= 8


def test_a_text_that_begins_a_call_must_go_on_as_one_and_ends_only_behind_it() -> None:
    source = call_grammar([Function("now")], must_call=False, many=False)
    ids = {piece: token for token, piece in enumerate(vocabulary().pieces) if token not in vocabulary().special_ids}
    matcher = matcher_of(Grammar("lark", source))
    for char in "It is late.\n<tool_call":
        assert END in allowed_by(matcher)
        assert matcher.accept((ids[char.encode()],))
    assert matcher.accept((ids[b">"],))
    for char in '\n{"name": "now", "arguments": {}}\n</tool_call>':
        assert END not in allowed_by(matcher)
        assert ids[char.encode()] in allowed_by(matcher), char
        assert matcher.accept((ids[char.encode()],))
    assert allowed_by(matcher) == [END]


def test_a_text_without_calls_is_free() -> None:
    source = call_grammar([Function("now")], must_call=False, many=True)
    for seed in range(10):
        text, ended = wander(Grammar("lark", source), random.Random(seed), 80)
        assert ended
        assert read(text.decode())[1] == []


def test_instead_of_calls_an_answer_may_be_the_json_that_was_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    source = call_grammar([Function("now")], must_call=False, many=True, otherwise=schema)
    kinds = set()
    for seed in range(30):
        text, ended = wander(Grammar("lark", source), random.Random(seed), 200)
        if ended:
            content, calls = read(text.decode())
            kinds.add(bool(calls))
            assert calls or json.loads(content) == {"a": 1}
    assert kinds == {True, False}

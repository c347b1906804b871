"""What a grammar lets through: only texts that conform, whatever is chosen of what it allows."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import lark
import pytest
from demo_grammar import END, OTHER_END, allowed_by, compiler, matcher_of, vocabulary, wander
from nasty_schemas import nasty_schema

from tritserve.engine.grammar import GrammarError, Matcher
from tritserve.protocol import Grammar


def assert_conforms(schema: dict[str, Any], text: bytes) -> None:
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    checker = jsonschema.Draft202012Validator(schema, format_checker=formats)
    checker.validate(json.loads(text.decode()))


def check_schema(seed: int) -> bool:
    """Wander through a schema; say whether the answer ended."""
    schema = nasty_schema(seed)
    text, ended = wander(Grammar("json_schema", json.dumps(schema)), random.Random(seed))
    if ended:
        assert_conforms(schema, text)
    return ended


def test_every_answer_to_a_nasty_schema_conforms() -> None:
    assert sum(check_schema(seed) for seed in range(30)) >= 25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_to_five_hundred_nasty_schemas_conforms() -> None:
    assert sum(check_schema(seed) for seed in range(500)) >= 450


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{3}-[0-9]{2}",
        "(yes|no|maybe)!?",
        "^\\d{4}-\\d{2}$",
        "(a+)+b",
        "é{2}|日本(語)?",
        "[^x]{0,5}x",
        "\\w+@\\w+\\.com",
        "(a|ab)(c|bcd)",
        '[\\d_]/\\W\n\\S\\s"[^\\w]',
    ],
)
def test_answers_to_a_regular_expression_match_it_whole(pattern: str) -> None:
    for seed in range(10):
        text, ended = wander(Grammar("regex", pattern), random.Random(seed), 60)
        if ended:
            assert re.fullmatch(pattern, text.decode(), re.ASCII), text
    assert ended or "+" in pattern


def test_answers_to_a_lark_grammar_parse_by_it() -> None:
    source = 'start: expr\nexpr: term (("+" | "-") term)*\nterm: NUMBER | "(" expr ")"\nNUMBER: /[0-9]{1,3}/\n'
    parser = lark.Lark(source)
    ended = 0
    for seed in range(20):
        text, done = wander(Grammar("lark", source), random.Random(seed), 60)
        if done:
            parser.parse(text.decode())
            ended += 1
    assert ended >= 10


def test_the_end_is_allowed_only_where_the_text_is_complete() -> None:
    matcher = matcher_of(Grammar("regex", "ab(c)?"))
    assert END not in allowed_by(matcher)
    assert matcher.accept((64,))  # a
    assert END not in allowed_by(matcher)
    assert matcher.accept((65,))  # b
    assert matcher.accept(())
    allowed = allowed_by(matcher)
    assert matcher.is_complete
    assert {vocabulary().pieces[token] for token in allowed} == {b"c", b"<|eot_id|>"}


def test_an_end_that_is_a_word_ends_only_a_complete_text() -> None:
    """With ``stop_token_ids: [a]`` a text that needs an a cannot be ended by it halfway."""
    matcher = matcher_of(Grammar("regex", "(aa)?b"), stop=(64,))
    assert [vocabulary().pieces[token] for token in allowed_by(matcher)] == [b"b", b"aa"]
    assert matcher.accept((65,))
    assert allowed_by(matcher) == [64]


def test_special_tokens_are_never_text_even_if_the_grammar_names_them() -> None:
    specials = vocabulary().special_ids
    for grammar in (Grammar("regex", "(?s:.)*"), Grammar("lark", "start: <|end_header_id|>* /(.|\\n)*/ <[4081]>?")):
        matcher = matcher_of(grammar)
        assert set(allowed_by(matcher)) & specials == {END}
    assert allowed_by(matcher_of(Grammar("lark", 'start: <|end_header_id|> "a"'))) == []


def test_ids_that_are_not_allowed_at_all_stay_so() -> None:
    assert allowed_by(matcher_of(Grammar("regex", "[ab]"), allowed=[64, END, OTHER_END])) == [64]
    matcher = matcher_of(Grammar("regex", "[ab]?"), allowed=[64])
    assert allowed_by(matcher) == [64]
    assert matcher.is_complete


def test_a_token_that_is_refused_ends_everything() -> None:
    matcher = matcher_of(Grammar("regex", "a*"))
    assert not matcher.accept((65,))
    assert matcher.error
    assert allowed_by(matcher) == []
    assert not matcher.is_complete
    assert not matcher.accept((64,))


def test_a_grammar_that_meets_a_limit_on_its_way_allows_nothing_from_then_on() -> None:
    matcher, rng = matcher_of(Grammar("regex", "(.*a.{200}b.*){5}")), random.Random(0)
    for _ in range(3000):
        allowed = [token for token in allowed_by(matcher) if token != END]
        if matcher.error is not None:
            break
        assert matcher.accept((rng.choice(allowed),))
    assert matcher.error
    assert allowed_by(matcher) == []
    assert not matcher.is_complete


def test_a_matcher_past_delivered_tokens_goes_on_as_the_first_one_would() -> None:
    grammar = Grammar("json_schema", json.dumps(nasty_schema(3)))
    first, rng, tokens = matcher_of(grammar), random.Random(5), []
    for _ in range(25):
        allowed = [token for token in allowed_by(first) if token != END]
        if not allowed:
            break
        tokens.append(rng.choice(allowed))
        assert first.accept(tokens[-1:])
        again = matcher_of(grammar)
        assert again.accept(tokens)
        assert allowed_by(again) == allowed_by(first)


def test_choices_of_one_request_do_not_disturb_each_other() -> None:
    prototype = compiler().compile(Grammar("regex", "a+b|c+d"))
    one, two = (Matcher(prototype, compiler(), stop_token_ids=(END,), allowed=None) for _ in range(2))
    assert one.accept((64,))
    assert two.accept((66,))
    assert vocabulary().pieces[allowed_by(one)[0]].startswith((b"a", b"b"))
    assert all(vocabulary().pieces[token].startswith((b"c", b"d")) for token in allowed_by(two))


BOMBS = {
    "brackets": Grammar("regex", "(" * 30_000 + "a" + ")" * 30_000),
    "lark brackets": Grammar("lark", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "a schema that is itself": Grammar("json_schema", '{"$ref": "#"}'),
    "a cycle": Grammar(
        "json_schema", '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}'
    ),
    "remote": Grammar("json_schema", '{"$ref": "https://example.com/schema.json"}'),
    "file": Grammar("json_schema", '{"$ref": "file:///etc/passwd"}'),
    "enum": Grammar("json_schema", json.dumps({"enum": [f"v{i:06}" for i in range(100_000)]})),
    "rules that need themselves": Grammar("lark", "start: a\na: b\nb: a"),
    "deep": Grammar("json_schema", '{"items":' * 5_000 + "{}" + "}" * 5_000),
    "nothing": Grammar("regex", "[^\\s\\S]"),
    "look-around": Grammar("regex", "(?=a)a"),
    "back-reference": Grammar("regex", "(a)\\1"),
    "no schema": Grammar("json_schema", "[]"),
    "no JSON": Grammar("json_schema", "{"),
    "unknown type": Grammar("json_schema", '{"type": "text"}'),
    "unsupported": Grammar("json_schema", '{"type": "array", "uniqueItems": true}'),
    "no start": Grammar("lark", 'other: "a"'),
    "control": Grammar("lark", "start: <|eot_id|"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_cannot_be_used_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compiler().try_out(BOMBS[name])
    assert 0 < len(str(caught.value)) < 400
    assert "panic" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "a{1,100000}", "((a{1,100}){1,100}){1,100}", "|".join(f"w{i}" for i in range(9_000))]
)
def test_expressions_that_make_others_backtrack_are_harmless(pattern: str) -> None:
    compiler().try_out(Grammar("regex", pattern))
    matcher = matcher_of(Grammar("regex", pattern))
    for _ in range(200):
        allowed = allowed_by(matcher)
        if matcher.error is not None or allowed == [END]:
            break
        token = next(token for token in allowed if token != END)
        assert matcher.accept((token,))


def test_a_client_cannot_change_the_parsers_options() -> None:
    schema = {
        "type": "array",
        "items": {"const": 1},
        "minItems": 2,
        "x-guidance": {"item_separator": "x", "lenient": True},
    }
    text, ended = wander(Grammar("json_schema", json.dumps({**schema, "maxItems": 2})), random.Random(0))
    assert ended
    assert json.loads(text) == [1, 1]

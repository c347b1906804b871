"""Calls of functions: what a model is told, and how its calls are found again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.text.tools import CLOSE, OPEN, CallReader, Function, call_grammar, plain_messages

ARGUMENTS = [
    '{"city":"Paris"}',
    "{}",
    '{ "a": [1, {"b": "}"}], "c": "\\"}{" }',
    '{"x":"</tool_call>","y":"<tool_call>\\\\"}',
    '{"é\\n":"\U0001f408"}',
]


def call(name: str, arguments: str) -> str:
    return f'{OPEN}\n{{"name": "{name}", "arguments": {arguments}}}\n{CLOSE}'


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]], int]:
    """Return text, calls and how many of them were whole."""
    reader, text, calls = CallReader(), "", []
    found = [found for piece in pieces for found in reader.feed(piece)] + list(reader.flush())
    for item in found:
        if item.call is None:
            text += item.text
        elif item.name is not None:
            assert item.call == len(calls)
            calls.append((item.name, ""))
        else:
            assert item.call == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + item.text)
    return text, calls, reader.num_whole


def cuts(text: str, rng: random.Random) -> list[str]:
    """Cut a text into pieces of odd sizes."""
    pieces = []
    while text:
        size = rng.randint(1, 7)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@pytest.mark.parametrize("lead", ["", "Let me see.\n", "a < b <tool", "<tool_call"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_calls_are_found_however_the_answer_is_cut(lead: str, count: int) -> None:
    wanted = [(f"tool_{index}", ARGUMENTS[index]) for index in range(count)]
    answer = lead + "\n".join(call(*one) for one in wanted)
    for seed in range(30):
        assert read(cuts(answer, random.Random(seed))) == (lead, wanted, count)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_come_out_as_they_were_written(arguments: str) -> None:
    assert read(list(call("f", arguments))) == ("", [("f", arguments)], 1)
    json.loads(arguments)


def test_a_call_that_is_cut_off_is_begun_but_not_whole() -> None:
    whole = call("f", ARGUMENTS[0])
    assert read([whole[:-40]])[2] == 0
    assert read([whole[: whole.index("Paris")]]) == ("", [("f", '{"city":"')], 0)
    assert read([OPEN + '\n{"na']) == (OPEN + '\n{"na', [], 0)


@pytest.mark.parametrize(
    "text",
    [
        f"{OPEN}hello{CLOSE}",
        f'{OPEN}\n{{"name": "{"x" * 100}", "arguments": {{}}}}',
        f'{OPEN}\n{{"title": "f", "arguments": {{}}}}\n{CLOSE}',
        f"{OPEN}{OPEN}{OPEN}",
        f"{CLOSE} {OPEN[:-1]}",
    ],
)
def test_what_only_looks_like_a_call_is_text(text: str) -> None:
    assert read(list(text)) == (text, [], 0)


@given(
    st.lists(
        st.sampled_from(
            [OPEN, CLOSE, '\n{"name": "', '", "arguments": ', "}\n", "{", "}", '"', "\\", "x", "\n", "[", "]", "é"]
        ),
        max_size=40,
    )
)
def test_no_text_breaks_the_reader_and_none_is_invented(parts: list[str]) -> None:
    """Whatever a model writes, whole or in pieces, the same is read, and all of it comes from what was written."""
    answer = "".join(parts)
    whole, split = read([answer]), read(list(answer))
    assert whole == split
    shown = len(whole[0]) + sum(len(name) + len(arguments) for name, arguments in whole[1])
    assert shown <= len(answer)


def test_reading_costs_the_length_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what is held back stays small however long the text is."""
    reader, longest = CallReader(), 0
    for piece in [
        "<tool_cal",
        OPEN,
        '\n{"name": "f", "arguments": {"a": "',
        *["<tool_call>" * 50] * 200,
        '"}}\n',
        CLOSE,
    ] * 3:
        for _ in reader.feed(piece):
            pass
        longest = max(longest, len(reader._held))
    assert longest < 120


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTIONS = [Function("get_n", "Gets n", SCHEMA), Function("now")]


def test_a_template_without_tools_is_given_them_as_text() -> None:
    described = [function.described() for function in FUNCTIONS]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "How many?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "get_n", "arguments": {"n": 3}}}],
        },
        {"role": "tool", "content": "three", "tool_call_id": "c1", "name": "get_n"},
    ]
    plain = plain_messages(messages, described)
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    system = str(plain[0]["content"])
    assert system.startswith("Be kind.\n\n")
    for line in (json.dumps(function["function"]) for function in described):
        assert line in system
    assert read([str(plain[2]["content"])]) == ("", [("get_n", '{"n": 3}')], 1)
    assert plain[3]["content"] == "<tool_response>\nthree\n</tool_response>"
    assert plain_messages(messages[1:2], described)[0]["role"] == "system"
    assert plain_messages(messages[:2], []) == messages[:2]


def test_a_template_that_knows_tools_tells_of_them_itself(make_text: Any) -> None:
    own = "{% for t in tools or [] %}[{{ t.function.name }}] <tool_call>{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
    described = [FUNCTIONS[1].described()]
    hello = [{"role": "user", "content": "hi"}]
    assert str(make_text(own).render_chat(hello, tools=described)) == "[now] <tool_call>user:hi"
    other = make_text("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}")
    text = str(other.render_chat(hello, tools=described))
    assert text.startswith("system:You can call these functions")
    assert OPEN in text
    assert text.endswith("user:hi\n")
    assert str(other.render_chat(hello)) == "user:hi\n"


@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_the_grammar_names_every_function(must_call: bool, many: bool) -> None:
    source = call_grammar(FUNCTIONS, must_call=must_call, many=many)
    assert all(f'\\"name\\": \\"{function.name}\\"' in source for function in FUNCTIONS)

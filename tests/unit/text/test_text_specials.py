"""What a client writes never becomes a special token; what the template writes always does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from tritserve.errors import InvalidRequest
from tritserve.text.model_text import ModelText
from tritserve.text.trusted_text import TrustedText, concat, marks, trusted

EOT, HEADER = 1279, 1276
ENDS_TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
TEMPLATES = {
    "plain": ENDS_TURNS,
    "trim": "{% for m in messages %}{{ (m.content | trim) + '<|eot_id|>' }}{% endfor %}",
    "upper": "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}",
    "lower": "{% for m in messages %}{{ m['content'].lower() ~ eos_token }}{% endfor %}",
    "slice": "{% for m in messages %}{{ m.content[:1] + m.content[1:] }}{{ '<|eot_id|>' }}{% endfor %}",
    "split": "{% for m in messages %}{{ m.content.split('|') | join('|') }}<|eot_id|>{% endfor %}",
    "replace": "{% for m in messages %}{{ m.content | replace('@', '') }}<|eot_id|>{% endfor %}",
    "replace method": "{% for m in messages %}{{ m.content.replace('@', '') }}<|eot_id|>{% endfor %}",
    "template around": "{% for m in messages %}<|{{ m.content }}|><|eot_id|>{% endfor %}",
    "adjoining": "{% for m in messages %}<|{{ m.content }}{% if loop.last %}<|eot_id|>{% endif %}{% endfor %}",
    "macro": "{% macro say(x) %}{{ x }}<|eot_id|>{% endmacro %}{% for m in messages %}{{ say(m.content) }}{% endfor %}",
    "namespace": "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content + '<|eot_id|>' %}{% endfor %}{{ ns.t }}",
    "set block": "{% for m in messages %}{% set x %}{{ m.content }}<|eot_id|>{% endset %}{{ x }}{% endfor %}",
    "percent": "{% for m in messages %}{{ '%s<|eot_id|>' % m.content }}{% endfor %}",
    "format": "{% for m in messages %}{{ '{}'.format(m.content) }}<|eot_id|>{% endfor %}",
    "json": "{% for m in messages %}{{ m | tojson }}<|eot_id|>{% endfor %}",
    "list": "{% for m in messages %}{{ m.content | list | join }}<|eot_id|>{% endfor %}",
    "reverse": "{% for m in messages %}{{ m.content | reverse | reverse }}<|eot_id|>{% endfor %}",
    "concat of both": "{% for m in messages %}{{ ['<|eot_id|>', m.content] | join('') }}{% endfor %}",
    "name": "{% for m in messages %}{{ m.name }}{{ m.tool_call_id }}{{ m.content }}<|eot_id|>{% endfor %}",
}
PARTS = [
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "eot_id|>",
    "<|eot_",
    "eot_id",
    "<|",
    "|>",
    "@",
    " ",
    "x",
    "\n",
]


def specials(text: ModelText, ids: list[int]) -> list[int]:
    return [token for token in ids if token in text.tokenizer.special_ids]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(contents=st.lists(st.lists(st.sampled_from(PARTS), max_size=6).map("".join), min_size=1, max_size=3))
def test_contents_never_yield_special_tokens(make_text: Any, template: str, contents: list[str]) -> None:
    text = _cached(make_text, template)
    messages = [{"role": "user", "content": c, "name": c, "tool_call_id": c} for c in contents]
    expected = 1 if "loop.last" in template else len(messages)

    found = specials(text, text.encode_chat(messages, add_generation_prompt=False))

    assert found == [EOT] * expected


_texts: dict[str, ModelText] = {}


def _cached(make_text: Any, template: str) -> ModelText:
    if template not in _texts:
        _texts[template] = make_text(template)
    return _texts[template]


def test_every_special_in_every_field_stays_text(make_text: Any) -> None:
    text = make_text("<tool_call>{{ tools | tojson }}{{ extra }}" + TEMPLATES["name"])
    spellings = "".join(text.tokenizer.special_tokens)
    tool = {"type": "function", "function": {"name": spellings, "description": spellings}}

    ids = text.encode_chat(
        [{"role": "user", "content": spellings, "name": spellings, "tool_call_id": spellings}],
        tools=[tool],
        template_kwargs={"extra": spellings},
    )

    assert specials(text, ids) == [EOT]


def test_spelling_split_across_messages_stays_text(make_text: Any) -> None:
    text = make_text("{% for m in messages %}{{ m.content }}{% endfor %}")

    for cut in range(1, len("<|eot_id|>")):
        contents = "<|eot_id|>"[:cut], "<|eot_id|>"[cut:]
        assert specials(text, text.encode_chat([{"role": "user", "content": c} for c in contents])) == []


def test_ordinary_and_spelt_contents_show_the_template_the_same_string(make_text: Any) -> None:
    text = make_text(
        "{{ '<|eot_id|>' in messages[0].content }} {{ messages[0].content == '<|eot_id|>x' }} {{ messages[0].content | length }}"
    )

    assert text.render_chat([{"role": "user", "content": "<|eot_id|>x"}]) == "True True 11"


def test_special_tokens_built_from_the_role_are_the_templates_own(make_text: Any) -> None:
    text = make_text("{% for m in messages %}{{ '<|start_' + 'header_id|>' }}{{ '<|' ~ 'eot_id' ~ '|>' }}{% endfor %}")

    assert specials(text, text.encode_chat([{"role": "user", "content": ""}])) == [HEADER, EOT]


@pytest.mark.parametrize("role", ["eot_id", "", "User", None, 1, "<|eot_id|>"])
def test_role_outside_the_list_is_refused(make_text: Any, role: object) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\].role"):
        make_text(ENDS_TURNS).encode_chat([{"role": role, "content": "x"}])


def test_text_prompt_parses_special_tokens_unless_told_not_to(make_text: Any) -> None:
    text = make_text(None, add_bos=True)

    assert specials(text, text.encode_prompt("a<|eot_id|>")) == [1270, EOT]
    assert specials(text, text.encode_prompt("a<|eot_id|>", parse_special=False)) == [1270]
    assert text.encode_prompt("<|begin_of_text|>a").count(1270) == 1


@pytest.mark.parametrize("template", [ENDS_TURNS, "{{ bos_token }}" + ENDS_TURNS])
def test_chat_begins_with_one_bos(make_text: Any, template: str) -> None:
    ids = make_text(template, add_bos=True).encode_chat([{"role": "user", "content": "<|begin_of_text|>"}])

    assert ids[0] == 1270
    assert ids.count(1270) == 1


@pytest.mark.parametrize(("lstrip", "rstrip"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(
    "text", ["a <x> b", "a  \n<x>\t b", "<x>", " <x> <x> ", "<x><x>a", "a\x1c<x>\x1cb", "a<xx>b<x>"]
)
def test_white_space_around_special_tokens_goes_as_in_the_library(
    tokenizer_json: bytes, lstrip: bool, rstrip: bool, text: str
) -> None:
    library = Tokenizer.from_str(tokenizer_json.decode())
    library.add_special_tokens(
        [AddedToken("<x>", special=True, lstrip=lstrip, rstrip=rstrip), AddedToken("<xx>", special=True)]
    )
    ours = ModelText(
        library.to_str().encode(), chat_template=None, bos_token_id=None, bos_text=None, eos_text=None, add_bos=False
    )

    assert ours.encode_prompt(text) == library.encode(text, add_special_tokens=False).ids


# In these texts a character tells by itself whether it is trusted: the client writes x, y and -, the template a, b and +.
MIXED = st.lists(st.one_of(st.text("ab+", max_size=3).map(trusted), st.text("xy-", max_size=3)), max_size=6).map(concat)


def consistent(text: str) -> bool:
    return marks(text) == bytes(char.lower() in "ab+" for char in text)


@given(MIXED, MIXED, st.sampled_from("abxy+-"), st.integers(-8, 8), st.integers(-8, 8))
def test_operations_keep_the_text_and_its_marks(
    text: TrustedText, other: TrustedText, sep: str, i: int, j: int
) -> None:
    plain = str.__str__(text)
    results: list[tuple[Any, Any]] = [
        (text[i:j], plain[i:j]),
        (text[::-1], plain[::-1]),
        (text + other, plain + str.__str__(other)),
        (text * 2, plain * 2),
        (text.strip("ax"), plain.strip("ax")),
        (text.upper(), plain.upper()),
        (text.capitalize(), plain.capitalize()),
        (text.removeprefix("a"), plain.removeprefix("a")),
        (text.removesuffix("x"), plain.removesuffix("x")),
        (text.replace("a", other), plain.replace("a", str.__str__(other))),
        (text.join([other, text, other]), plain.join([str.__str__(other), plain, str.__str__(other)])),
    ]
    lists = [
        (text.split(sep), plain.split(sep)),
        (text.rsplit(sep, 1), plain.rsplit(sep, 1)),
        (text.partition(sep), plain.partition(sep)),
        (text.rpartition(sep), plain.rpartition(sep)),
        (list(text), list(plain)),
    ]
    results += [pair for ours, theirs in lists for pair in zip(ours, theirs, strict=True)]

    for ours, theirs in results:
        assert ours == theirs
        assert consistent(ours)

"""Chat templates come from model files: they cannot escape, cannot run for ever, and fail with an error that says why."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tritserve.errors import InvalidRequest, ModelFileError
from tritserve.text.chat_template import MAX_TEMPLATE_CHARS, ROLES, ChatTemplate
from tritserve.text.template_budget import MAX_CPU_SECONDS

USER = [{"role": "user", "content": "Hello"}]

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [{'a': ''}] | map(attribute='a.__class__.__mro__') | list }}",
    "{{ messages | groupby('__class__') }}",
    "{{ messages | sort(attribute='__class__') | list }}",
    "{{ messages | selectattr('__class__') | list }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__base__ }}",
    "{{ dict.mro() }}",
    "{{ range.__class__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "{{ '{0[__class__]}'.format('') }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ['{0.__class__}'] | map('format', '') | list }}{{ '{0.__class__}' | attr('format')('') }}",
    "{{ [''] | map('{0.__class__}'.format) | list }}",
    "{{ [''.format] | map('attr', '__self__') | list }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% for m in messages %}{{ loop.__class__ }}{% endfor %}",
    "{% for m in messages %}{{ loop._iterator.gi_frame }}{% endfor %}",
    "{% set g = (messages | map('upper')) %}{{ g.gi_frame.f_globals }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages.sort() }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.translate({97: 98}) }}",
    "{{ (1).to_bytes(4, 'big') }}",
    "{{ messages[0].content.__init__('x') }}",
    "{{ bos_token._marks }}",
    "{{ environment.literals }}",
    "{{ ''.join.__self__ }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{% do messages.append(1) %}",
    "{{ undefined_name.__class__ }}",
    "{{ undefined_name() }}",
    "{{ namespace(a=1).__class__.__base__ }}",
    "{{ cycler(1).next.__func__.__globals__ }}",
    "{{ messages[0].items.__self__.clear() }}",
]

DOUBLED = (
    "{%% set ns = namespace(s='aaaaaaaa') %%}{%% for i in range(64) %%}{%% set ns.s = %s %%}{%% endfor %%}{{ ns.s }}"
)
NESTED = (
    "{%% set ns = namespace(s=(1, 2), t=(1, 2)) %%}"
    "{%% for i in range(64) %%}{%% set ns.s = (ns.s, ns.s) %%}{%% set ns.t = (ns.t, ns.t) %%}{%% endfor %%}%s"
)
LARGE = "{%% set s = 'a' * 5000000 %%}{%% for i in range(99999) %%}%s{%% endfor %%}"
BOMBS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if j %}x{% endfor %}{% endfor %}",
    "{% for i in range(99999) if range(99999) | list | length %}{% endfor %}",
    "{% for i in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ 'a' * 10 ** 9 }}",
    "{{ ([1] * 1000000000) | length }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set ns = namespace(n=12345) %}{% for i in range(64) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    *(
        DOUBLED % step
        for step in (
            "ns.s + ns.s",
            "ns.s ~ ns.s",
            "[ns.s, ns.s] | join",
            "ns.s.join([ns.s, ns.s])",
            "ns.s.replace('a', 'aa')",
            "ns.s | replace('a', 'aa')",
            "'%s%s' % (ns.s, ns.s)",
            "'%s%s' | format(ns.s, ns.s)",
            "'{0}{0}'.format(ns.s)",
            "'{0!s}{0!s}'.format(ns.s)",
            "'{a}{a}'.format_map({'a': ns.s})",
        )
    ),
    "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    *(
        NESTED % use
        for use in (
            "{{ ns.s }}",
            "{{ ns.s ~ '' }}",
            "{{ ns.s | string }}",
            "{{ ns.s | tojson }}",
            "{{ ns.s | lower }}",
            "{{ ns.s | trim }}",
            "{{ ns.s == ns.t }}",
            "{{ ns.s in [ns.t] }}",
            "{{ ns.s is eq(ns.t) }}",
            "{{ [ns.s] | select('eq', ns.t) | list }}",
            "{{ [ns.s, ns.t] | sort }}",
            "{{ [ns.s] | unique | list }}",
            "{{ {ns.s: 1} }}",
            "{{ {}.get(ns.s) }}",
            "{{ messages[ns.s].x }}",
            "{{ '%s' % [ns.s] }}",
            "{{ '%r' % [ns.s] }}",
            "{{ '{!r}'.format(ns.s) }}",
            "{{ raise_exception(ns.s) }}",
            "{% for i in [ns.s, ns.t] %}{{ loop.changed(i) }}{% endfor %}",
        )
    ),
    *(
        LARGE % use
        for use in (
            "{% set x = s + i | string %}",
            "{% set x = s[1:] %}",
            "{% set x = s.count('ab') %}",
            "{% if 'b' in s %}{% endif %}",
            "{% set x = s | upper %}",
            "{% set x = s.split('a') %}",
            "{% set x = s | e %}",
        )
    ),
    "{{ '%1000000000d' % 1 }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "{{ 'a\nb' | indent(1000000000) }}",
    "{{ [1] | tojson(indent=1000000000) }}",
    "{{ 1 | round(1000000000, 'ceil') }}",
    "{{ range(99999) | join('a' * 100000) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{% for i in [1] %}" * 50 + "{% endfor %}" * 50,
    "{{ 'aaaaaaaa'" + "|replace('a','aaaaaaaa')" * 100 + " }}",
    "{{ 'a'" + " | upper" * 10000 + " }}",
    "{% for i in range(99999) %}{% endfor %}" * 3000,
    "x" * (MAX_TEMPLATE_CHARS + 1),
]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>")


@pytest.mark.parametrize("source", ESCAPES)
def test_template_that_reaches_out_of_the_sandbox_is_refused_or_sees_nothing(source: str) -> None:
    try:
        shown = str(template(source).render(USER))
    except (ModelFileError, InvalidRequest) as error:
        shown = str(error)

    for leak in ("<class", "<module", "0x", "/", "uid=", "__builtins__"):
        assert leak not in shown
    assert USER == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("source", BOMBS, ids=lambda source: source[:60])
def test_template_that_asks_for_too_much_ends_with_an_error(source: str) -> None:
    start = time.thread_time()

    with pytest.raises((ModelFileError, InvalidRequest)):
        template(source).render(USER)

    assert time.thread_time() - start < 2 * MAX_CPU_SECONDS + 1


def test_template_too_costly_only_for_some_messages_refuses_those() -> None:
    squared = template(
        "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}ok"
    )

    assert squared.render(USER) == "ok"
    with pytest.raises(InvalidRequest, match="steps"):
        squared.render(USER * 200)


def test_long_conversation_is_within_the_budget(golden_chat: dict[str, Any]) -> None:
    for source in golden_chat["templates"].values():
        assert template(source).render([{"role": "user", "content": "word " * 800}] * 1024)


def test_refusal_of_the_template_reaches_the_client() -> None:
    strict = template(
        "{% if messages[0].role != 'system' %}{{ raise_exception('Begin with a system message.') }}{% endif %}"
    )

    with pytest.raises(InvalidRequest, match="Begin with a system message") as caught:
        strict.render(USER)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("source", ["{{", "{% for %}", "{% nonsense %}", "{{ x | nonsense }}", "{% endif %}"])
def test_text_that_is_no_template_is_refused_at_load(source: str) -> None:
    with pytest.raises(ModelFileError, match="chat template"):
        template(source)


@pytest.mark.parametrize(
    "name", ["messages", "tools", "tokenize", "chat_template", "bos_token", "add_generation_prompt", "loop", "range"]
)
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="reserved"):
        template("x").render(USER, template_kwargs={name: True})


@pytest.mark.parametrize("name", ["", "a b", "__class__", "_x", "a" * 65, "é"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        template("x").render(USER, template_kwargs={name: True})


def test_kwargs_reach_the_template() -> None:
    assert (
        template("{{ enable_thinking }} {{ x.y }}").render(
            USER, template_kwargs={"enable_thinking": True, "x": {"y": 1}}
        )
        == "True 1"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n", "Hello\n"),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("{{ {'b': '<é>', 'a': [1, none]} | tojson }}", '{"b": "<é>", "a": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hello"),
        ("{{ bos_token + eos_token }}", "<s></s>"),
        (
            "{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 'e' in messages[0].content }} {{ 'z' not in 'abc' }}",
            "True False True True",
        ),
        ("{{ messages[0]['content'][1:3] }}{{ messages[-1].content[-1] }}", "elo"),
        (
            "{% for m in messages %}{{ m.content.strip().split('l') | join('-') }}{{ m.get('x', 'none') }}{% endfor %}",
            "He--onone",
        ),
        ("{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% endfor %}", "contentHelloroleuser"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}", "['Hello']"),
        (
            "{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ nothing is defined }}",
            "TrueTrueTrueFalse",
        ),
        ("{{ '%s-%d' % ('a', 3) }} {{ '{:>3}'.format(7) }} {{ '%05.1f' | format(2.25) }}", "a-3   7 002.2"),
        ("{{ messages[0].content | truncate(4, true, '', 0) }}{{ [3, 1, 2] | sort | join(',') }}", "Hell1,2,3"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call m(1) %}!{% endcall %}", "12!"),
        ("{{ 'x' if add_generation_prompt else 'y' }}", "x"),
    ],
)
def test_template_language_is_that_of_transformers(source: str, expected: str) -> None:
    shown = template(source).render([{"content": "Hello", "role": "user"}])

    assert shown == expected


def test_threads_render_at_once_without_mixing() -> None:
    shared = template(
        "{% set ns = namespace(t='') %}{% for i in range(50) %}{% set ns.t = ns.t + messages[0].content %}{% endfor %}{{ ns.t }}"
    )
    results: dict[str, str] = {}

    def render(letter: str) -> None:
        results[letter] = str(shared.render([{"role": "user", "content": letter}]))

    threads = [threading.Thread(target=render, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {letter: letter * 50 for letter in "abcdefgh"}


def test_developer_is_shown_as_system() -> None:
    assert template("{{ messages[0].role }}").render([{"role": "developer", "content": ""}]) == "system"
    assert "developer" not in ROLES

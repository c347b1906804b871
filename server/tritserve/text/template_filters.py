"""The filters and tests that a chat template may use: jinja2's, without those that only serve web pages or draw random numbers, and with bounds where
a small argument can ask for a huge result."""

from __future__ import annotations

import functools
import html
import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, pass_environment
from jinja2.filters import FILTERS, do_indent, do_int, do_round, make_attrgetter
from jinja2.tests import TESTS

from tritserve.text.template_budget import MAX_CHARS, MAX_ITEMS, TemplateLimit, check_size, spend, spend_deep
from tritserve.text.trusted_text import TrustedText, concat, marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# fmt: off
_AS_IS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "items", "last",
    "length", "lower", "map", "min", "max", "reject", "rejectattr", "reverse", "select", "selectattr", "sort",
    "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)
# fmt: on
# These compare, hash or print what they are given.
# fmt: off
_DEEP = frozenset({
    "capitalize", "dictsort", "groupby", "lower", "max", "min", "sort", "title", "trim", "truncate", "unique", "upper", "urlencode",
    "wordcount",
})
# fmt: on
_COMPARING = {"in", "eq", "equalto", "ne", "gt", "greaterthan", "ge", "lt", "lessthan", "le"}
_MAX_INDENT = 64
_MAX_PRECISION = 32


def to_text(value: object) -> str:
    """Return ``str(value)``, paid for; a trusted text stays one. What prints its address is refused."""
    if isinstance(value, str):
        return value
    if callable(value) or not (value is None or isinstance(value, (bool, int, float))):
        spend_deep(value)
    return str(value)


def join_text(values: Iterable[object]) -> str:
    """Concatenate values as text, as the operator ``~`` does."""
    parts = [to_text(value) for value in values]
    check_size(sum(map(len, parts)), MAX_CHARS, "characters")
    return spend(concat(parts))


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """Replace, keeping marks, if the result is not too large."""
    times = text.count(old) if count < 0 else min(count, text.count(old))
    check_size(len(text) + times * max(0, len(new) - len(old)), MAX_CHARS, "characters")
    if isinstance(new, TrustedText) or isinstance(text, TrustedText):
        check_size(times, MAX_ITEMS, "items")
        return TrustedText(text, marks(text)).replace(old, new, count)
    return text.replace(old, new, count)


def join(separator: str, parts: list[str]) -> str:
    """Join, keeping marks, if the result is not too large. Raises TypeError if a part is no string."""
    check_size(sum(map(len, parts)) + len(separator) * len(parts), MAX_CHARS, "characters")
    if isinstance(separator, TrustedText) or any(isinstance(part, TrustedText) for part in parts):
        return TrustedText(separator, marks(separator)).join(parts)
    return separator.join(parts)


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without escaping for HTML, as transformers does. The result is never trusted."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= _MAX_INDENT):
        raise TemplateLimit(f"tojson: indent must be 0 to {_MAX_INDENT}")
    if separators is not None and max(map(len, separators)) > _MAX_INDENT:
        raise TemplateLimit("tojson: separators are too long")
    spend_deep(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _escape(value: object) -> str:
    return html.escape(str.__str__(to_text(value)))


@pass_environment
def _join(environment: Environment, value: Iterable[object], d: str = "", attribute: str | int | None = None) -> str:
    items = map(make_attrgetter(environment, attribute), value) if attribute is not None else value
    return join(to_text(d), [to_text(item) for item in items])


def _replace(value: object, old: object, new: object, count: int | None = None) -> str:
    return replace(to_text(value), to_text(old), to_text(new), -1 if count is None else count)


def _indent(value: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    check_size(len(width) if isinstance(width, str) else width, _MAX_INDENT, "characters of indent")
    return do_indent(to_text(value), width, first, blank)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    check_size(abs(precision), _MAX_PRECISION, "digits")
    return do_round(value, precision, method)


def _int(value: object, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str):
        check_size(len(value), 1000, "digits")
    return do_int(value, default, base)


@pass_environment
def _sum(
    environment: Environment, iterable: Iterable[object], attribute: str | int | None = None, start: float = 0
) -> float:
    items = map(make_attrgetter(environment, attribute), iterable) if attribute is not None else iterable
    total = start
    for item in items:
        if not isinstance(item, (int, float)) or not isinstance(total, (int, float)):
            raise TypeError("sum adds numbers only")
        total += item
    return total


def _list(value: Iterable[object]) -> list[object]:
    items = list(islice(value, MAX_ITEMS + 1))
    check_size(len(items), MAX_ITEMS, "items")
    return items


def _metered(function: Callable[..., Any], *, deep: bool = False) -> Callable[..., Any]:
    """Let every call pay: for its result, and with ``deep`` for all that its arguments hold."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if deep:
            for arg in args:
                spend_deep(arg)
        return spend(function(*args, **kwargs))

    return call


def bounded_filters(format_text: Callable[..., str]) -> dict[str, Callable[..., Any]]:
    """Return name -> filter; ``format_text`` is the operator ``%`` of the sandbox."""
    own: dict[str, Callable[..., Any]] = {
        "e": _escape,
        "escape": _escape,
        "format": lambda value, *args, **kwargs: format_text(to_text(value), kwargs or args),
        "indent": _indent,
        "int": _int,
        "join": _join,
        "list": _list,
        "replace": _replace,
        "round": _round,
        "safe": lambda value: value,
        "string": to_text,
        "sum": _sum,
        "tojson": tojson,
    }
    stock: Mapping[str, Any] = FILTERS
    filters = {name: _metered(stock[name], deep=name in _DEEP) for name in _AS_IS}
    return filters | {name: _metered(function) for name, function in own.items()}


def bounded_tests() -> dict[str, Callable[..., Any]]:
    """Return name -> test; those that compare pay for all they compare."""
    stock: Mapping[str, Any] = TESTS
    shallow = {name for name in stock if name.isalpha()} - {
        "in",
        "eq",
        "equalto",
        "ne",
        "gt",
        "greaterthan",
        "ge",
        "lt",
        "lessthan",
        "le",
    }
    return {name: _metered(function, deep=name not in shallow) for name, function in stock.items()}

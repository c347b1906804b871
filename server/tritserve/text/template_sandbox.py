"""jinja2's sandbox made tight for one purpose: chat templates from model files.

On top of ``ImmutableSandboxedEnvironment`` (no attribute with a leading underscore, no mutation):

* only what is listed here can be called: some methods of strings and dicts, macros, loops, a few globals;
* operators, methods and filters that could make a huge value from a small one check the size first;
* every loop iteration, call, filter, test and operation pays from a budget (``template_budget``);
* literals of the template are trusted text, what a client wrote is not (``trusted_text``).

The compiler below differs from jinja2's in what it emits for literals, ``~``, comparisons, slices and loop bodies.
"""

from __future__ import annotations

import operator
import re
import types
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from tritserve.text import template_filters
from tritserve.text.template_budget import MAX_CHARS, MAX_ITEMS, TemplateLimit, check_size, spend, spend_deep, tick
from tritserve.text.trusted_text import TrustedText, concat, marks, trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jinja2.parser import Parser

# fmt: off
_STR_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isspace", "istitle",
    "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper",
})
# fmt: on
_DICT_METHODS = frozenset({"get", "items", "keys", "values"})
_LOOP_METHODS = frozenset({"cycle", "changed"})
_CYCLER_METHODS = frozenset({"next", "reset"})
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_MAX_INT_BITS = 1024
_MAX_EXPONENT = 64
_WIDE_FIELD = re.compile(r"\d{4}|\*")
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


class _OpaqueNamespace(Namespace):
    """A namespace that does not print what it holds: it may hold itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Formatter(SandboxedFormatter):
    """``str.format`` without wide fields."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _WIDE_FIELD.search(format_spec):
            raise TemplateLimit("it formats a field of more than 999 characters")
        return super().format_field(template_filters.to_text(value) if not format_spec else value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return super().convert_field(spend_deep(value), conversion)


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant says for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Compiler(CodeGenerator):
    """Emit Python in which literals are trusted and work is paid for."""

    environment: TemplateSandbox

    def _literal(self, text: str) -> str:
        return f"environment.literals[{self.environment.keep_literal(text)}]"

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, str):
            self.write(self._literal(node.value))
        else:
            super().visit_Const(node, frame)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._literal("".join(group))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_text((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        left = node.expr
        parts = []
        for operand in node.ops:  # a < b < c is a < b and b < c
            parts.append((operand.op, left, operand.expr))
            left = operand.expr
        self.write("(")
        for index, (op, first, second) in enumerate(parts):
            self.write(f"{' and ' if index else ''}environment.compare({op!r}, ")
            self.visit(first, frame)
            self.write(", ")
            self.visit(second, frame)
            self.write(")")
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        self.write("environment.spend(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            self.write("environment.spend_deep(")
            self.visit(item.key, frame)
            self.write("): ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        pay = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None, lineno=node.lineno)
        node.body = [nodes.ExprStmt(pay, lineno=node.lineno), *node.body]
        super().visit_For(node, frame)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of one chat template."""

    code_generator_class = _Compiler
    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "/", "-"})

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Make an environment in which ``functions`` can be called by their names."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            extensions=[LoopControlExtension, _Generation],
            finalize=template_filters.to_text,
        )
        self.literals: list[TrustedText] = []
        self.filters = template_filters.bounded_filters(self.format_percent)
        self.tests = template_filters.bounded_tests()  # type: ignore[assignment]  # jinja2 infers too narrow a type
        functions_by_name: dict[str, Any] = {
            "cycler": Cycler,
            "dict": dict,
            "joiner": Joiner,
            "namespace": _OpaqueNamespace,
            "range": safe_range,
            **functions,
        }
        self.globals = functions_by_name
        self._functions = [*functions_by_name.values(), tick]

    concat = staticmethod(template_filters.join_text)
    join_text = staticmethod(template_filters.join_text)
    spend = staticmethod(spend)
    spend_deep = staticmethod(spend_deep)
    tick = staticmethod(tick)

    def keep_literal(self, text: str) -> int:
        """Store a literal of the template and return its number."""
        self.literals.append(trusted(text))
        return len(self.literals) - 1

    def compare(self, op: str, left: Any, right: Any) -> Any:
        """Compare, paying for containers on both sides."""
        tick()
        if isinstance(left, (list, tuple, dict)) or op in ("in", "notin"):
            spend_deep(left)
            if isinstance(left, (list, tuple, dict)):
                spend_deep(right)
            else:
                spend(right)
        return _COMPARISONS[op](left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Subscribe an object; a container as key is paid for before it is hashed, or printed because it is no key."""
        if isinstance(argument, (list, tuple, dict)):
            spend_deep(argument)
        return super().getitem(obj, argument)

    # -- operators

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` if the result is not too large."""
        if operator == "%" and isinstance(left, str):
            return self.format_percent(left, right)
        if operator == "+":
            if isinstance(left, str) and isinstance(right, str):
                check_size(len(left) + len(right), MAX_CHARS, "characters")
            elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
                check_size(len(left) + len(right), MAX_ITEMS, "items")
        elif operator == "*":
            _check_repetition(left, right)
            _check_repetition(right, left)
        for number in (left, right):
            if isinstance(number, int):
                check_size(number.bit_length(), _MAX_INT_BITS, "bits")
        if operator == "**" and abs(right) > _MAX_EXPONENT:
            raise TemplateLimit(f"it raises to a power above {_MAX_EXPONENT}")
        return spend(super().call_binop(context, operator, left, right))

    def format_percent(self, text: str, values: Any) -> str:
        """Return ``text % values`` without wide fields; marks are kept only where every field is ``%s``."""
        if any(field.startswith("%(") or _WIDE_FIELD.search(field) for field in re.findall(r"%[^a-zA-Z%]*", text)):
            raise TemplateLimit("it formats a field of more than 999 characters, or one with a name")
        spend_deep(values)
        items = values if isinstance(values, tuple) else (values,)
        pieces = re.split(r"(%s)", str.__str__(text)) if not isinstance(values, dict) else []
        if len(pieces) == 2 * len(items) + 1 and "%" not in "".join(pieces[::2]):
            own = TrustedText(text, marks(text)).split("%s")
            parts = [
                part for pair in zip(own, [*map(template_filters.to_text, items), ""], strict=True) for part in pair
            ]
            return spend(concat(parts))
        return spend(str(str.__mod__(text, values)))

    # -- calls

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replace ``str.format`` and ``format_map`` by the bounded formatter."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = str(value.__self__), value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            fields, named = ((), args[0]) if is_map else (args, kwargs)
            return str.__add__("", _Formatter(self).vformat(text, fields, named))

        formatted.__qualname__ = _FORMATTED
        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # as jinja2 declares it
        """Call what may be called. Raises SecurityError for anything else."""
        tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and isinstance(__obj, (types.BuiltinMethodType, types.MethodType)):
            if name not in _STR_METHODS:
                raise SecurityError(f"the string method {name[:40]} may not be called")
            spend_deep(args)
            return spend(_call_str_method(owner, name, __obj, args, _own_kwargs(kwargs)))
        if not __self._may_call(__obj, owner, name):
            raise SecurityError(f"a {type(__obj).__name__} may not be called")
        if not isinstance(__obj, (Macro, LoopContext)):
            spend_deep(args)
        return spend(super().call(__context, __obj, *args, **kwargs))

    def _may_call(self, obj: Any, owner: Any, name: str) -> bool:
        if isinstance(owner, dict):
            return name in _DICT_METHODS
        if isinstance(owner, LoopContext):
            return name in _LOOP_METHODS
        if isinstance(owner, Cycler):
            return name in _CYCLER_METHODS
        if isinstance(obj, (Macro, LoopContext, Joiner, Undefined)):
            return True
        return getattr(obj, "__qualname__", "") == _FORMATTED or any(obj is function for function in self._functions)


_FORMATTED = "str.format (bounded)"


def _check_repetition(value: Any, times: Any) -> None:
    if isinstance(times, int):
        if isinstance(value, str):
            check_size(len(value) * max(0, times), MAX_CHARS, "characters")
        elif isinstance(value, (list, tuple)):
            check_size(len(value) * max(0, times), MAX_ITEMS, "items")


def _own_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the template gave, without those that compiled templates add for jinja2's context."""
    return {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}


def _call_str_method(
    owner: str, name: str, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a listed method of a string; those that can grow are ours."""
    if name == "join" and len(args) == 1 and not kwargs:
        return template_filters.join(owner, list(args[0]))
    if name == "replace" and len(args) in (2, 3) and not kwargs:
        return template_filters.replace(owner, *args)
    if name in ("split", "rsplit", "splitlines"):
        check_size(_num_pieces(owner, name, *args, **kwargs), MAX_ITEMS, "items")
    return method(*args, **kwargs)


def _num_pieces(text: str, name: str, sep: str | bool | None = None, maxsplit: int = -1, keepends: bool = False) -> int:
    """Return at least how many pieces a split makes, without making more than one too many."""
    plain = str.__str__(text)
    if name == "splitlines":
        return 1 + sum(plain.count(char) for char in _LINE_ENDS)
    if isinstance(sep, str) and sep:
        return 1 + plain.count(sep)
    return len(plain.split(None, MAX_ITEMS))

"""Functions that a model may call: how it is told of them, what a call looks like, and how calls are found in what it writes.

A call is what many models were trained on (Hermes, Qwen):

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

The grammar allows exactly this spelling, so reading it back needs no JSON parser and no guess, and the arguments conform to the function's
schema. A model whose template knows tools in this form is told of them by it; any other one in a system message (``plain_messages``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritserve.json_style import styled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 16
"""Most calls of one answer."""
_NO_PARAMETERS: dict[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
_NAME_LEAD, _ARGUMENTS_LEAD, _TAIL = '\n{"name": "', '", "arguments": ', "}\n" + CLOSE
_MAX_NAME_CHARS = 64
_INTRODUCTION = """You can call these functions, one JSON object per line:
{functions}
To call one, write
{open}
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
{close}
and nothing after it. Its result comes in <tool_response>."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called. ``parameters`` is the JSON schema of its arguments, an object."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None

    def described(self) -> dict[str, object]:
        """Return what a chat template is told of it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description or "",
                "parameters": dict(self.parameters or _NO_PARAMETERS),
            },
        }


def call_grammar(
    functions: Sequence[Function], *, must_call: bool, many: bool, otherwise: Mapping[str, object] | None = None
) -> str:
    """Return the Lark grammar of an answer that calls ``functions``: at least once with ``must_call``, up to ``MAX_CALLS`` times with
    ``many``. Without ``must_call`` the answer may also be a text with calls behind it or none, or, where ``otherwise`` is a schema, JSON."""
    more = f'("\\n" "{OPEN}" call){{0,{MAX_CALLS - 1}}}' if many else ""
    calls = f'"{OPEN}" call {more}'
    rules = [f"start: {calls}"]
    if not must_call and otherwise is not None:
        rules = [f"start: {calls} | otherwise", f"otherwise: %json {json.dumps(styled(otherwise))}"]
    elif not must_call:
        rules = [
            f"start: TEXT | opened call {more}",
            f"opened[lazy]: /(.|\\n)*{OPEN}/",
            f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{OPEN}(.|\\n)*/",
        ]
    names = " | ".join(f"call_{index}" for index in range(len(functions)))
    rules.append(f"call: {names}")
    for index, function in enumerate(functions):
        head = json.dumps(f"{_NAME_LEAD}{function.name}{_ARGUMENTS_LEAD}")
        rules.append(f"call_{index}: {head} arguments_{index} {json.dumps(_TAIL)}")
        schema = {"type": "object", **(function.parameters or _NO_PARAMETERS)}
        rules.append(f"arguments_{index}: %json {json.dumps(styled(schema))}")
    return "\n".join(rules)


def plain_messages(
    messages: Sequence[Mapping[str, object]], functions: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    """Return a conversation for a template that knows nothing of tools: functions (as described), calls and results as text."""
    plain = [_plain_message(message) for message in messages]
    if not functions:
        return plain
    lines = "\n".join(json.dumps(function["function"], ensure_ascii=False) for function in functions)
    text = _INTRODUCTION.format(functions=lines, open=OPEN, close=CLOSE)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
    return [{"role": "system", "content": text}, *plain]


def _plain_message(message: Mapping[str, object]) -> dict[str, object]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    content = message["content"]
    texts = [content] if isinstance(content, str) and content else []
    for call in calls:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        texts.append(f"{OPEN}{_NAME_LEAD}{function['name']}{_ARGUMENTS_LEAD}{arguments}{_TAIL}")
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(texts)}


@dataclass(frozen=True, slots=True)
class Found:
    """Text of the answer (``call`` None), or of call number ``call``: its ``name`` first, then pieces of its arguments."""

    call: int | None
    text: str = ""
    name: str | None = None


_State = Literal["text", "name", "arguments", "tail", "after"]


class CallReader:
    """Find calls in an answer that arrives in pieces. Looks at every character once; what is not spelt as a call is text.

    ``num_whole`` calls were complete so far.
    """

    def __init__(self) -> None:
        self.num_whole = 0
        self._num_calls = 0
        self._state: _State = "text"
        self._held = ""
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> Iterator[Found]:
        """Take more of the answer; yield what is certain."""
        self._held += text
        while True:
            before = self._state, len(self._held)
            yield from self._advance()
            if (self._state, len(self._held)) == before:
                return

    def flush(self) -> Iterator[Found]:
        """Yield what is left when nothing follows: the beginning of a call that never became one is text."""
        held, self._held = self._held, ""
        if self._state == "name":
            held = OPEN + held
        if held and self._state != "tail":
            yield Found(None, held)

    def _advance(self) -> Iterator[Found]:
        match self._state:
            case "text":
                yield from self._read_text()
            case "name":
                yield from self._read_name()
            case "arguments":
                yield from self._read_arguments()
            case "tail":
                if self._expect(_TAIL):
                    self._state = "after"
                    self.num_whole += 1
            case "after":
                if self._expect("\n" + OPEN):
                    self._state = "name"

    def _read_text(self) -> Iterator[Found]:
        at = self._held.find(OPEN)
        if at >= 0:
            shown, self._held, self._state = self._held[:at], self._held[at + len(OPEN) :], "name"
        else:
            kept = next(
                (
                    size
                    for size in range(min(len(OPEN) - 1, len(self._held)), 0, -1)
                    if OPEN.startswith(self._held[-size:])
                ),
                0,
            )
            shown, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        if shown:
            yield Found(None, shown)

    def _read_name(self) -> Iterator[Found]:
        held = self._held
        if not (held.startswith(_NAME_LEAD) or _NAME_LEAD.startswith(held)):
            yield from self._give_up(OPEN)
            return
        end = held.find(_ARGUMENTS_LEAD, len(_NAME_LEAD))
        if end < 0:
            if len(held) > len(_NAME_LEAD) + _MAX_NAME_CHARS + len(_ARGUMENTS_LEAD):
                yield from self._give_up(OPEN)
            return
        name, self._held = held[len(_NAME_LEAD) : end], held[end + len(_ARGUMENTS_LEAD) :]
        self._state, self._depth, self._in_string, self._is_escaped = "arguments", 0, False, False
        self._num_calls += 1
        yield Found(self._num_calls - 1, name=name)

    def _read_arguments(self) -> Iterator[Found]:
        size = 0
        for char in self._held:
            size += 1
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._state = "tail"
                    break
        text, self._held = self._held[:size], self._held[size:]
        if text:
            yield Found(self._num_calls - 1, text)

    def _expect(self, spelling: str) -> bool:
        """Take ``spelling`` off; False while it may still come. What is not it is text again."""
        if self._held.startswith(spelling):
            self._held = self._held[len(spelling) :]
            return True
        if not spelling.startswith(self._held):
            self._state = "text"
        return False

    def _give_up(self, taken: str) -> Iterator[Found]:
        """What looked like the beginning of a call is text after all."""
        self._state = "text"
        yield Found(None, taken)

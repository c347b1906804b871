"""The input of a response as chat has it, and back as the answer shows it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from tritserve.api.schemas.common import WireModel
    from tritserve.api.schemas.responses import InputItem, InputPart, ResponsesBody

_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


def conversation(body: ResponsesBody) -> dict[str, object]:
    """Return the fields of a chat body that make the prompt and bind the answer. Raises InvalidRequest for items that are not served."""
    fields: dict[str, object] = {"messages": _messages(body)}
    if body.tools:
        fields["tools"] = [
            {"type": "function", "function": {name: value for name, value in shown(tool).items() if name != "type"}}
            for tool in body.tools
        ]
        fields["parallel_tool_calls"] = body.parallel_tool_calls
    if isinstance(body.tool_choice, str):
        fields["tool_choice"] = body.tool_choice
    elif body.tool_choice is not None:
        fields["tool_choice"] = {"type": "function", "function": {"name": body.tool_choice.name}}
    form = None if body.text is None else body.text.format
    if form is not None and form.type == "json_schema":
        schema = {name: value for name, value in shown(form).items() if name != "type"}
        fields["response_format"] = {"type": form.type, "json_schema": schema}
    elif form is not None:
        fields["response_format"] = {"type": form.type}
    return fields


def shown(part: WireModel | None) -> dict[str, object]:
    """Return a part of the request as the answer repeats it, without what it does not say."""
    return {} if part is None else part.model_dump(by_alias=True, exclude_none=True)


def shown_format(body: ResponsesBody) -> dict[str, object]:
    """Return ``text.format`` as the answer repeats it."""
    return shown(None if body.text is None else body.text.format) or {"type": "text"}


def _messages(body: ResponsesBody) -> list[dict[str, object]]:
    """Return the input as messages, the instructions first; calls that follow one another, or an assistant's text, are of one message."""
    messages: list[dict[str, object]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    called: set[str | None] = set()
    for index, item in enumerate(body.input):
        where = f"input[{index}]"
        match item.type:
            case "message":
                messages.append(_message(item, where))
            case "function_call":
                _add_call(messages, item, where)
                called.add(item.call_id)
            case "function_call_output":
                messages.append(_output(item, where, called))
            case _:
                raise InvalidRequest(
                    f"{where}.type: items of this type are not supported.",
                    param=f"{where}.type",
                    code="unsupported_parameter",
                )
    return messages


def _message(item: InputItem, where: str) -> dict[str, object]:
    if item.role is None or item.content is None:
        raise InvalidRequest(f"{where}: a message has a role and content.", param=where)
    return {"role": item.role, "content": _parts(item.content, f"{where}.content")}


def _add_call(messages: list[dict[str, object]], item: InputItem, where: str) -> None:
    if item.call_id is None or item.name is None or item.arguments is None:
        raise InvalidRequest(f"{where}: a function_call has a call_id, a name and arguments.", param=where)
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant":
        last = {"role": "assistant", "content": None}
        messages.append(last)
    calls = last.setdefault("tool_calls", [])
    if isinstance(calls, list):
        calls.append(call)


def _output(item: InputItem, where: str, called: Set[str | None]) -> dict[str, object]:
    if item.call_id is None or item.output is None:
        raise InvalidRequest(f"{where}: a function_call_output has a call_id and an output.", param=where)
    if item.call_id not in called:
        raise InvalidRequest(f"{where}.call_id: must be that of a call before.", param=f"{where}.call_id")
    return {"role": "tool", "tool_call_id": item.call_id, "content": _parts(item.output, f"{where}.output")}


def _parts(parts: Sequence[InputPart], where: str) -> list[dict[str, str]]:
    found = []
    for number, part in enumerate(parts):
        place = f"{where}[{number}]"
        if part.type not in _TEXT_PARTS or part.text is None:
            raise InvalidRequest(
                f"{place}: only parts of the type 'input_text' or 'output_text', with text, are supported.",
                param=place,
                code="unsupported_parameter",
            )
        found.append({"type": "text", "text": part.text})
    return found

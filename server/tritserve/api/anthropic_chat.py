"""Anthropic's conversations as chat has them. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritserve.api.schemas.anthropic import ContentBlock, CountTokensBody, ToolChoice, Turn

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def conversation(body: CountTokensBody) -> dict[str, object]:
    """Return the fields of a chat body that make the prompt and bind the answer. Raises InvalidRequest for blocks that are not served."""
    fields: dict[str, object] = {
        "messages": _messages(body),
        "continue_final_message": body.messages[-1].role == "assistant",
    }
    if body.tools:
        fields["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in body.tools
        ]
    if body.tool_choice is not None:
        fields["tool_choice"] = _choice(body.tool_choice)
        fields["parallel_tool_calls"] = False if body.tool_choice.disable_parallel_tool_use else None
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"name": "output", "schema": body.output_config.format.schema_}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _choice(choice: ToolChoice) -> object:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name is None:
        raise InvalidRequest("tool_choice.name: must be given.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _messages(body: CountTokensBody) -> list[dict[str, object]]:
    """Return the messages: the system text first, successive texts of one speaker as one."""
    messages: list[dict[str, object]] = []
    system = _joined(body.system or [], "system")
    if system:
        messages.append({"role": "system", "content": system})
    for index, turn in enumerate(body.messages):
        for message in _turn(turn, f"messages[{index}].content"):
            last = messages[-1] if messages else {}
            if last.keys() == message.keys() == {"role", "content"} and last["role"] == message["role"]:
                last["content"] = f"{last['content']}\n{message['content']}"
            else:
                messages.append(message)
    return messages


def _turn(turn: Turn, where: str) -> list[dict[str, object]]:
    """Return one turn: results of tools, each a message, then its text and calls."""
    results: list[dict[str, object]] = []
    texts: list[str] = []
    calls: list[dict[str, object]] = []
    for number, block in enumerate(turn.content):
        place = f"{where}[{number}]"
        if block.type == "tool_use" and turn.role == "assistant":
            calls.append(_call(block, place))
        elif block.type == "tool_result" and turn.role == "user":
            results.append(_result(block, place))
        else:
            texts.append(_text(block, place))
    if calls:
        return [{"role": turn.role, "content": "\n".join(texts), "tool_calls": calls}]
    return [*results, {"role": turn.role, "content": "\n".join(texts)}] if texts or not results else results


def _call(block: ContentBlock, place: str) -> dict[str, object]:
    if block.id is None or block.name is None or block.input is None:
        raise InvalidRequest(f"{place}: a tool_use has an id, a name and an input.", param=place)
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result(block: ContentBlock, place: str) -> dict[str, object]:
    """Return a result; chat has no field for a failure, so it is said in the text."""
    if block.tool_use_id is None:
        raise InvalidRequest(f"{place}.tool_use_id: must be given.", param=f"{place}.tool_use_id")
    text = _joined(block.content or [], f"{place}.content")
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": f"Error: {text}" if block.is_error else text,
    }


def _joined(blocks: Sequence[ContentBlock], where: str) -> str:
    return "\n".join(_text(block, f"{where}[{index}]") for index, block in enumerate(blocks))


def _text(block: ContentBlock, place: str) -> str:
    if block.type != "text":
        raise InvalidRequest(
            f"{place}.type: blocks of this type are not supported here.", param=place, code="unsupported_parameter"
        )
    if block.text is None:
        raise InvalidRequest(f"{place}.text: must be given.", param=f"{place}.text")
    return block.text

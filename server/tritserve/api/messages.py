"""Chat messages from the wire to what the chat template reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tritserve.api.parameters import MESSAGE_UNSUPPORTED, PART_IGNORABLE, sort_out
from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritserve.api.schemas.chat import ConversationBody, Message, ToolCall
    from tritserve.settings import Settings

_ROLES = {"developer": "system"}


def template_messages(body: ConversationBody, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Return ``{"role", "content"[, "name"][, "tool_calls"][, "tool_call_id"]}`` for each message, and the names that are ignored.

    Arguments of calls are objects there, as templates have them. Raises InvalidRequest.
    """
    if len(body.messages) > settings.max_messages:
        raise InvalidRequest(
            f"messages has {len(body.messages)} entries; the limit is {settings.max_messages}.", param="messages"
        )
    messages = []
    ignored: list[str] = []
    called: dict[str, str] = {}  # id -> name
    for index, message in enumerate(body.messages):
        where = f"messages[{index}]"
        ignored += _sort_out(message, where, strict=settings.strict_parameters)
        messages.append(_template_message(message, where, called))
        called |= {call.id: call.function.name for call in message.tool_calls or []}
    return messages, ignored


def _sort_out(message: Message, where: str, *, strict: bool) -> list[str]:
    """Return the ignored names of a message and its parts, without their positions: a header names each once."""
    found = sort_out(message.model_extra, MESSAGE_UNSUPPORTED, frozenset(), strict=strict, prefix=f"{where}.")
    ignored = [name.replace(where, "messages", 1) for name in found]
    for call in message.tool_calls or []:
        ignored += sort_out(call.model_extra, {}, frozenset(), strict=strict, prefix="messages.tool_calls.")
    for number, part in enumerate(message.content or []):
        if part.type == "text":
            place = f"{where}.content[{number}]"
            found = sort_out(part.model_extra, {}, PART_IGNORABLE, strict=strict, prefix=f"{place}.")
            ignored += [name.replace(place, "messages.content", 1) for name in found]
    return ignored


def _template_message(message: Message, where: str, called: Mapping[str, str]) -> dict[str, Any]:
    if message.role == "function":
        raise InvalidRequest(
            f"{where}.role: messages of the role 'function' are not supported; use 'tool'.",
            param=f"{where}.role",
            code="unsupported_parameter",
        )
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(f"{where}.tool_calls: only an assistant calls tools.", param=f"{where}.tool_calls")
    content = "" if message.tool_calls and message.content is None else _text(message, where)
    result: dict[str, Any] = {"role": _ROLES.get(message.role, message.role), "content": content}
    if message.name is not None:
        result["name"] = message.name
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        result["tool_calls"] = [_template_call(call, f"{where}.tool_calls[{index}]") for index, call in calls]
    if message.role == "tool":
        if message.tool_call_id is None or message.tool_call_id not in called:
            raise InvalidRequest(
                f"{where}.tool_call_id: must be the id of a call in a message before.", param=f"{where}.tool_call_id"
            )
        result |= {"tool_call_id": message.tool_call_id, "name": called[message.tool_call_id]}
    elif message.tool_call_id is not None:
        raise InvalidRequest(f"{where}.tool_call_id: only for the role 'tool'.", param=f"{where}.tool_call_id")
    return result


def _template_call(call: ToolCall, where: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.function.arguments)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        param = f"{where}.function.arguments"
        raise InvalidRequest(f"{param}: must be JSON of an object.", param=param)
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _text(message: Message, where: str) -> str:
    """Return the message's text; parts stand on lines of their own, as other servers have it."""
    if message.content is None:
        raise InvalidRequest(f"{where}.content: must be given.", param=f"{where}.content")
    texts = []
    for index, part in enumerate(message.content):
        place = f"{where}.content[{index}]"
        if part.type != "text":
            raise InvalidRequest(
                f"{place}.type: only parts of the type 'text' are supported.", param=place, code="unsupported_parameter"
            )
        if part.text is None:
            raise InvalidRequest(f"{place}.text: must be given.", param=f"{place}.text")
        texts.append(part.text)
    return "\n".join(texts)

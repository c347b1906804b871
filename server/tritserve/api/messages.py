"""Chat messages from the wire to what the chat template reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritserve.api.parameters import MESSAGE_UNSUPPORTED, PART_IGNORABLE, sort_out
from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from tritserve.api.schemas.chat import ConversationBody, Message
    from tritserve.settings import Settings

_ROLES = {"developer": "system"}
_NO_TOOLS = frozenset({"tool", "function"})


def template_messages(body: ConversationBody, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Return ``{"role", "content"[, "name"]}`` for each message, and the names that are ignored. Raises InvalidRequest."""
    if len(body.messages) > settings.max_messages:
        raise InvalidRequest(
            f"messages has {len(body.messages)} entries; the limit is {settings.max_messages}.", param="messages"
        )
    messages = []
    ignored: list[str] = []
    for index, message in enumerate(body.messages):
        where = f"messages[{index}]"
        ignored += _sort_out(message, where, strict=settings.strict_parameters)
        messages.append(_template_message(message, where))
    return messages, ignored


def _sort_out(message: Message, where: str, *, strict: bool) -> list[str]:
    """Return the ignored names of a message and its parts, without their positions: a header names each once."""
    found = sort_out(message.model_extra, MESSAGE_UNSUPPORTED, frozenset(), strict=strict, prefix=f"{where}.")
    ignored = [name.replace(where, "messages", 1) for name in found]
    for number, part in enumerate(message.content or []):
        if part.type == "text":
            place = f"{where}.content[{number}]"
            found = sort_out(part.model_extra, {}, PART_IGNORABLE, strict=strict, prefix=f"{place}.")
            ignored += [name.replace(place, "messages.content", 1) for name in found]
    return ignored


def _template_message(message: Message, where: str) -> dict[str, Any]:
    if message.role in _NO_TOOLS:
        raise InvalidRequest(
            f"{where}.role: messages of the role '{message.role}' are not supported, as tools are not.",
            param=f"{where}.role",
            code="unsupported_parameter",
        )
    content = _text(message, where)
    result = {"role": _ROLES.get(message.role, message.role), "content": content}
    if message.name is not None:
        result["name"] = message.name
    return result


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

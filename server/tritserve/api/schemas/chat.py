"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tritserve.api.schemas.common import GenerationBody, NumTopLogprobs, PositiveNumTokens, WireModel

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(WireModel):
    """A part of a message; only ``type`` "text" is served."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None


def _as_parts(value: object) -> object:
    """Turn a string into its only part, so that the field has one type and one set of errors."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of parts")
    return value


class Message(WireModel):
    """One message. Names that would carry another kind of content are refused unless empty (``api/messages.py``)."""

    role: Role
    content: Annotated[list[ContentPart], BeforeValidator(_as_parts)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s<|\\/>]+$")] | None = None


class ConversationBody(WireModel):
    """What becomes a prompt through the chat template."""

    messages: Annotated[list[Message], Field(min_length=1)]
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    truncate_prompt_tokens: PositiveNumTokens | None = None


class ChatBody(ConversationBody, GenerationBody):
    """A chat request."""

    max_tokens: PositiveNumTokens | None = None
    max_completion_tokens: PositiveNumTokens | None = None
    logprobs: bool | None = None
    top_logprobs: NumTopLogprobs | None = None

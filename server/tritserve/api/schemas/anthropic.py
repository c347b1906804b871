"""Bodies and answers of POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shapes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType
from pydantic import BeforeValidator, Field

from tritserve.api.schemas.common import ModelName, PositiveNumTokens, WireModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded"]


class ContentBlock(WireModel):
    """A block of a message; only ``type`` "text" is served."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None


def _as_blocks(value: object) -> object:
    """Turn a string into its only block, so that the field has one type and one set of errors."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of content blocks")
    return value


Content = Annotated[list[ContentBlock], BeforeValidator(_as_blocks)]


class Turn(WireModel):
    """One message."""

    role: Literal["user", "assistant"]
    content: Content


class CountTokensBody(WireModel):
    """What is sent to the model."""

    model: ModelName
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Content | None = None


class MessagesBody(CountTokensBody):
    """A generation request. What is not named here and serves /v1/chat/completions (seed, min_p, ...) is passed on to it."""

    max_tokens: PositiveNumTokens
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class TextBlock(Struct, tag_field="type", tag="text"):
    """Text of an answer."""

    text: str
    citations: None = None


class MessageUsage(Struct):
    """``input_tokens`` are those that had to be computed; the prompt has them and the cached ones."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class MessageAnswer(Struct, kw_only=True):
    """The whole answer, and what a stream starts with."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokensCount(Struct):
    """The answer of count_tokens."""

    input_tokens: int


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    """New text."""

    text: str


class StopDelta(Struct):
    """Why the answer ended."""

    stop_reason: StopReason | None
    stop_sequence: str | None


class MessageEvent(Struct, kw_only=True):
    """One event of a stream; which fields it has depends on its type."""

    type: str
    message: MessageAnswer | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: TextBlock | UnsetType = UNSET
    delta: TextDelta | StopDelta | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET

"""Bodies and answers of POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType
from pydantic import Field

from tritserve.api.schemas.chat import MAX_TOOLS, CallId, FunctionName
from tritserve.api.schemas.common import ModelName, PositiveNumTokens, WireModel, string_as_part

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class ContentBlock(WireModel):
    """A block of a message: text, a call of a tool (``id``, ``name``, ``input``) or its result (``tool_use_id``, ``content``)."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None
    id: CallId | None = None
    name: FunctionName | None = None
    input: dict[str, Any] | None = None
    tool_use_id: CallId | None = None
    content: Annotated[list[ContentBlock], string_as_part("text")] | None = None
    is_error: bool | None = None


Content = Annotated[list[ContentBlock], string_as_part("text")]


class Turn(WireModel):
    """One message."""

    role: Literal["user", "assistant"]
    content: Content


class Tool(WireModel):
    """A function of the client's; tools that run at the vendor's are not served."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(WireModel):
    """``tool_choice``; ``name`` where the type is "tool"."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(WireModel):
    """``output_config.format``."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(WireModel):
    """``output_config``."""

    format: OutputFormat | None = None


class CountTokensBody(WireModel):
    """What is sent to the model."""

    model: ModelName
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Content | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None


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


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call; ``input`` is a JSON object."""

    id: str
    name: str
    input: Raw


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
    content: list[TextBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokensCount(Struct):
    """The answer of count_tokens."""

    input_tokens: int


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    """New text."""

    text: str


class InputDelta(Struct, tag_field="type", tag="input_json_delta"):
    """More of a call's JSON."""

    partial_json: str


class StopDelta(Struct):
    """Why the answer ended."""

    stop_reason: StopReason | None
    stop_sequence: str | None


class MessageEvent(Struct, kw_only=True):
    """One event of a stream; which fields it has depends on its type."""

    type: str
    message: MessageAnswer | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: TextBlock | ToolUseBlock | UnsetType = UNSET
    delta: TextDelta | InputDelta | StopDelta | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET

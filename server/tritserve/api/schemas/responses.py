"""Bodies and answers of POST /v1/responses, in OpenAI's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType
from pydantic import BeforeValidator, Field

from tritserve.api.schemas.common import ModelName, NumTopLogprobs, PositiveNumTokens, StreamOptions, WireModel

if TYPE_CHECKING:
    from tritserve.api.schemas.answers import ChatTokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputPart(WireModel):
    """A part of an input message; only text is served."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None


def _as_parts(value: object) -> object:
    """Turn a string into its only part, so that the field has one type and one set of errors."""
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of parts")
    return value


class InputItem(WireModel):
    """An item of the input; only messages are served, and of an answer's own items those that came from here."""

    type: Annotated[str, Field(max_length=64)] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Annotated[list[InputPart], BeforeValidator(_as_parts)] | None = None


def _as_items(value: object) -> object:
    """Turn a string into the one user message that it is."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of items")
    return value


class TextFormat(WireModel):
    """``text.format``."""

    type: Annotated[str, Field(max_length=64)] = "text"


class TextConfig(WireModel):
    """``text``."""

    format: TextFormat | None = None


class ResponsesBody(WireModel):
    """A stateless request: the whole conversation is in ``input``."""

    model: ModelName | None = None
    input: Annotated[list[InputItem], BeforeValidator(_as_items), Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: PositiveNumTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: NumTopLogprobs | None = None
    include: list[Annotated[str, Field(max_length=64)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None


class InputTokensDetails(Struct):
    """Where the input's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    """This server's models do not reason apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class OutputText(Struct, tag_field="type", tag="output_text"):
    """Text of an answer. ``logprobs`` are empty unless asked for."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ChatTokenLogprob] = []


class OutputMessage(Struct, tag_field="type", tag="message"):
    """The one item of an answer."""

    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]
    role: str = "assistant"


class IncompleteDetails(Struct):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseFailure(Struct):
    """Why there is no answer."""

    code: str
    message: str


class NoReasoning(Struct, frozen=True):
    """``reasoning`` of a model that does not."""

    effort: None = None
    summary: None = None


class PlainFormat(Struct, frozen=True):
    """``text.format`` of free text."""

    type: str = "text"


class PlainText(Struct, frozen=True):
    """``text``."""

    format: PlainFormat = PlainFormat()


class ResponseAnswer(Struct, kw_only=True):
    """A response as it is and as it grows. What this server has no use for is there as OpenAI's neutral value."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    background: bool = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    model: str
    output: list[OutputMessage] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: NoReasoning = NoReasoning()
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: PlainText = PlainText()
    tool_choice: str = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    system_fingerprint: str


class ResponseEvent(Struct, kw_only=True):
    """One event of a stream; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: ResponseAnswer | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    item: OutputMessage | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET

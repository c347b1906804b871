"""Bodies and answers of POST /v1/responses, in OpenAI's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType
from pydantic import BeforeValidator, Field

from tritserve.api.schemas.chat import MAX_TOOLS, CallId, FunctionName
from tritserve.api.schemas.common import (
    ModelName,
    NumTopLogprobs,
    PositiveNumTokens,
    StreamOptions,
    WireModel,
    string_as_part,
)

if TYPE_CHECKING:
    from tritserve.api.schemas.answers import ChatTokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputPart(WireModel):
    """A part of an input message; only text is served."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None


Parts = Annotated[list[InputPart], string_as_part("input_text")]


class InputItem(WireModel):
    """An item of the input: a message, a ``function_call`` that an answer made (``call_id``, ``name``, ``arguments``) or its
    ``function_call_output`` (``call_id``, ``output``)."""

    type: Annotated[str, Field(max_length=64)] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Parts | None = None
    call_id: CallId | None = None
    name: FunctionName | None = None
    arguments: str | None = None
    output: Parts | None = None


def _as_items(value: object) -> object:
    """Turn a string into the one user message that it is."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of items")
    return value


class TextFormat(WireModel):
    """``text.format``: as ``response_format``, but flat."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(WireModel):
    """``text``."""

    format: TextFormat | None = None


class Tool(WireModel):
    """One of ``tools``: a function, flat. Tools that run at the vendor's are not served."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(WireModel):
    """``tool_choice`` that names a function."""

    type: Literal["function"]
    name: FunctionName


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
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
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


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(Struct, tag_field="type", tag="message"):
    """A stretch of text of an answer."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: str = "assistant"


class OutputCall(Struct, tag_field="type", tag="function_call"):
    """A call of a function; ``arguments`` are JSON."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


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
    output: list[OutputMessage | OutputCall] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: NoReasoning = NoReasoning()
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Any = "auto"
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
    item: OutputMessage | OutputCall | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET

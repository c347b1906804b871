"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tritserve.api.schemas.common import GenerationBody, NumTopLogprobs, PositiveNumTokens, WireModel, string_as_part

MAX_TOOLS = 128
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(WireModel):
    """A part of a message; only ``type`` "text" is served."""

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None


FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class CalledFunction(WireModel):
    """``arguments`` are JSON of an object."""

    name: FunctionName
    arguments: str


class ToolCall(WireModel):
    """A call that an assistant's message made."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(WireModel):
    """One message. Names that would carry another kind of content are refused unless empty (``api/messages.py``)."""

    role: Role
    tool_calls: list[ToolCall] | None = None
    tool_call_id: CallId | None = None
    content: Annotated[list[ContentPart], string_as_part("text")] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s<|\\/>]+$")] | None = None


class ToolFunction(WireModel):
    """A function; ``parameters`` is the JSON schema of its arguments, which conform whatever ``strict`` says."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(WireModel):
    """One of ``tools``."""

    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(WireModel):
    """The function of a ``ToolChoice``."""

    name: str


class ToolChoice(WireModel):
    """``tool_choice``; ``function`` where the type is "function"."""

    type: Literal["none", "auto", "required", "function"]
    function: ChosenFunction | None = None


def _as_choice(value: object) -> object:
    """Turn a word into an object, so that the field has one type and one set of errors."""
    if value == "function":
        raise ValueError("a function is named by an object")
    return {"type": value} if isinstance(value, str) else value


class ConversationBody(WireModel):
    """What becomes a prompt through the chat template."""

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[ToolChoice, BeforeValidator(_as_choice)] | None = None
    parallel_tool_calls: bool | None = None
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

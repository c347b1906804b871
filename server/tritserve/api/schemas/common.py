"""What chat and text requests share. ``None`` is absent: every field may be null on the wire.

Ranges that depend on settings or on the model are checked in ``api/convert.py``. Types are strict: no number in a string, no true as 1.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

INT32_MAX = 2**31 - 1
MAX_TOP_LOGPROBS = 20
MAX_IDS = 4096
"""Most entries of ``stop_token_ids``."""

ModelName = Annotated[str, Field(max_length=512)]
NumTokens = Annotated[int, Field(ge=0, le=INT32_MAX)]
PositiveNumTokens = Annotated[int, Field(ge=1, le=INT32_MAX)]
NumTopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Share = Annotated[float, Field(ge=0, le=1)]


def _as_list(value: object) -> object:
    """Turn a string into a list of one, so that the field has one type and one set of errors."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of strings")
    return value


def string_as_part(type_: str) -> BeforeValidator:
    """Turn a string into its only part, of that type, so that a content field has one type and one set of errors."""

    def as_parts(value: object) -> object:
        if isinstance(value, str):
            return [{"type": type_, "text": value}]
        if not isinstance(value, list):
            raise ValueError("must be a string or a list of parts")
        return value

    return BeforeValidator(as_parts)


StringOrList = Annotated[list[str], BeforeValidator(_as_list)]


class WireModel(BaseModel):
    """A JSON object from a client. Names without a field are kept in ``model_extra``; ``api/parameters.py`` decides on them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class StreamOptions(WireModel):
    """``stream_options``."""

    include_usage: bool | None = None


class JsonSchemaFormat(WireModel):
    """``response_format.json_schema``. The answer conforms whatever ``strict`` says; ``name`` and ``description`` change nothing."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(WireModel):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(WireModel):
    """``structured_outputs``: one of these. ``json`` is a schema, as an object or as its text."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None


class GenerationBody(WireModel):
    """Fields of both generation endpoints."""

    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: Annotated[int, Field(ge=1)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    min_p: _Share | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    allowed_token_ids: list[TokenId] | None = None

    stop: StringOrList | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_IDS)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: NumTokens | None = None
    ignore_eos: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    truncate_prompt_tokens: PositiveNumTokens | None = None
    return_token_ids: bool | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None

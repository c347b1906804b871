"""Bytes of a request body to a checked wire model.

msgspec reads the JSON: it knows no NaN or Infinity, refuses numbers that do not fit a double, and needs no limit of ours against
depth to stay alive. pydantic checks types and ranges. Nothing else runs while either works, and a million tiny lists in 4 MB took
them a second: so what a body is made of is counted first, which costs some milliseconds. Every refusal names the field and what it
may be, never what was in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec
from pydantic import ValidationError

from tritserve.api.schemas.common import WireModel
from tritserve.errors import InvalidRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from starlette.requests import Request

Body = TypeVar("Body", bound=WireModel)

_BRACKETS = b'[]{}"'
_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STRING = re.compile(rb'"[^"]*"')
_SAME_BRACKETS = bytes.maketrans(b"{}", b"[]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_PARAM_CHARS = 128
_MAX_PARTS = {b"{[": 8_192, b":": 32_768, b",": 2**18}
"""Objects and lists, members, values: several times what the limits on messages, prompts and token ids let through."""
_MAX_QUOTES = 2 * (2 * _MAX_PARTS[b":"])
_ERROR_CODES = {"missing": "missing_required_parameter"}


async def read_body(request: Request, model: type[Body], max_json_depth: int) -> Body:
    """Read, parse and check a request's body. Raises UnsupportedMediaType or InvalidRequest."""
    return check_body(await read_json(request, max_json_depth), model)


async def read_json(request: Request, max_json_depth: int) -> dict[str, object]:
    """Read a request's body as a JSON object. Raises UnsupportedMediaType or InvalidRequest."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("The body must be JSON, declared as Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed: this server reads no Content-Encoding.")
    return parse_json(await request.body(), max_json_depth)


def parse_json(data: bytes, max_depth: int) -> dict[str, object]:
    """Parse a JSON object of at most ``max_depth`` nested levels. Raises InvalidRequest."""
    if _has_too_many_parts(data):
        raise InvalidRequest("The body has too many objects, lists or values.", code="invalid_json")
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise _too_deep(max_depth) from None
    except msgspec.ValidationError:
        raise InvalidRequest("The body has a number that is out of range.", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        where = (
            str(error).removeprefix("JSON is malformed: ") if isinstance(error, msgspec.DecodeError) else "not UTF-8"
        )
        raise InvalidRequest(f"The body is not valid JSON: {where}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_type")
    if _is_deeper(data, max_depth):
        raise _too_deep(max_depth)
    return value


def check_body(value: dict[str, object], model: type[Body]) -> Body:
    """Check types and ranges. Raises InvalidRequest naming the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = param_name(problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(
            f"{param}: {message}.", param=param, code=_ERROR_CODES.get(problem["type"], "invalid_value")
        ) from None


def param_name(location: tuple[int | str, ...]) -> str:
    """Write a place in the body as OpenAI does: ``messages[0].content``. What is no plain name becomes ``?``: it comes from the client."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            shown = part if _PLAIN_NAME.fullmatch(part) else "?"
            name += f".{shown}" if name else shown
    return name[:_MAX_PARAM_CHARS]


def _is_deeper(data: bytes, max_depth: int) -> bool:
    """Say whether well-formed JSON nests deeper. Peels one level of brackets off per pass, all in C."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    brackets = _STRING.sub(b"", _without_escaped_quotes(data).translate(None, _OTHER_BYTES)).translate(_SAME_BRACKETS)
    for _ in range(max_depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _has_too_many_parts(data: bytes) -> bool:
    """Count what a body is made of. The quotes come first: they bound what leaving out the strings costs."""
    if data.count(b'"') - data.count(b'\\"') > _MAX_QUOTES:
        return True
    if not _exceeds(data):
        return False
    return _exceeds(_STRING.sub(b"", _without_escaped_quotes(data)))


def _exceeds(data: bytes) -> bool:
    return any(sum(data.count(mark) for mark in marks) > most for marks, most in _MAX_PARTS.items())


def _without_escaped_quotes(data: bytes) -> bytes:
    """Drop what could be taken for the end of a string. In a run of backslashes every two are one escape, counted from its start."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _too_deep(max_depth: int) -> InvalidRequest:
    return InvalidRequest(f"The body nests deeper than {max_depth} levels.", code="invalid_json")

"""The one table from an exception to an HTTP status and OpenAI's error body; and the bodies of errors that are none of ours.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}      OpenAI's
    {"type": "error", "error": {"type": ..., "message": ...}}                Anthropic's

Texts of the classes in the table may be shown. Everything else (a bug, a library's exception, an error about files) answers with
a generic message and the request id, and is logged once, with its traceback.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from tritserve import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)
LONGEST_RETRY_SECONDS = 60.0
"""What ``retry-after`` may ask for; SDKs ignore longer ones."""

_WAS_LOGGED = "_tritserve_was_logged"
_DO_NOT_RETRY = {"x-should-retry": "false"}


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Everything of an answer that says no."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        return json.dumps(self.body, ensure_ascii=False).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    type: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_TABLE: dict[type[BaseException], _Row] = {
    errors.InvalidRequest: _Row(400, "invalid_request_error"),
    errors.Unauthorized: _Row(401, "invalid_request_error", "invalid_api_key", {"www-authenticate": "Bearer"}),
    errors.ModelNotFound: _Row(404, "invalid_request_error", "model_not_found"),
    errors.UnsupportedMediaType: _Row(415, "invalid_request_error", "unsupported_media_type"),
    errors.Overloaded: _Row(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.WorkerFailed: _Row(500, "server_error", "worker_failed", _DO_NOT_RETRY),
    errors.NumericFault: _Row(500, "server_error", "numeric_fault", _DO_NOT_RETRY),
    errors.Unavailable: _Row(503, "server_error", "unavailable"),
    errors.RequestAborted: _Row(503, "server_error", "request_aborted"),
}

_BY_STATUS = {
    400: ("invalid_request_error", "bad_request"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "body_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    431: ("invalid_request_error", "headers_too_large"),
    503: ("server_error", "unavailable"),
    505: ("invalid_request_error", "http_version_not_supported"),
}


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_error(reply: ErrorReply, request_id: str) -> bytes:
    """Return the body of an error in Anthropic's shape; it has a type and a text, and no place for ``param`` and ``code``."""
    usual = "invalid_request_error" if reply.status < 500 else "api_error"
    detail = {"type": _ANTHROPIC_TYPES.get(reply.status, usual), "message": reply.message}
    body = {"type": "error", "error": detail, "request_id": request_id or None}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def reply_to(error: BaseException, request_id: str = "") -> ErrorReply:
    """Return the answer to an exception, by the nearest class of its MRO that the table knows.

    An exception that is not in the table is a bug or none of the client's business: it is logged here with its traceback, once
    however often it is asked about.
    """
    row = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)
    if row is None:
        if not getattr(error, _WAS_LOGGED, False):
            logger.error("unexpected error", exc_info=error)
            setattr(error, _WAS_LOGGED, True)
        hint = f" Its log names this request: {request_id}." if request_id else ""
        return ErrorReply(500, f"The server made an error.{hint}", "server_error", code="internal_error")
    message, param, code, headers = str(error), None, row.code, dict(row.headers)
    match error:
        case errors.InvalidRequest():
            param, code = error.param, error.code
        case errors.ModelNotFound():
            param = "model"
        case errors.Overloaded():
            code = error.reason
            headers |= retry_headers(error.retry_after_seconds)
            if error.retry_after_seconds > LONGEST_RETRY_SECONDS:
                headers |= _DO_NOT_RETRY
                message += f" It is expected to have room in about {_duration(error.retry_after_seconds)}."
        case errors.Unavailable():
            headers |= retry_headers(error.retry_after_seconds)
        case errors.RequestAborted():
            headers |= retry_headers(1.0)
    return ErrorReply(row.status, message, row.type, param, code, headers)


def plain_reply(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> ErrorReply:
    """Return the answer for a status that has no exception of ours (404, 405, 413, ...)."""
    type_, usual = _BY_STATUS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    return ErrorReply(status, message or HTTPStatus(status).phrase, type_, code=code or usual, headers=headers or {})


def retry_headers(seconds: float) -> dict[str, str]:
    """Say when to come back, at most a minute from now: whole seconds for everybody, milliseconds for SDKs that read them."""
    seconds = min(max(seconds, 0.001), LONGEST_RETRY_SECONDS)
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"

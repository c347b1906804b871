"""Log lines: for a person on a terminal, JSON otherwise. Each names its request; no line holds text of a prompt or an answer."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritserve.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request that the current task works for; every line logged meanwhile carries it."""

_FIELDS = "fields"
_HANDLER_NAME = "tritserve"


def set_up_logging(settings: Settings) -> None:
    """Send every logger's lines to standard error in the settings' format. Idempotent."""
    stream = sys.stderr
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == _HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # Libraries say at INFO what our own lines say better, once per request.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def with_fields(**fields: object) -> Mapping[str, object]:
    """Return the ``extra`` of a log call that adds fields to its line: None and empty ones are left out, numbers rounded to millionths."""
    kept = ((name, value) for name, value in fields.items() if value is not None and value != "")
    return {_FIELDS: {name: round(value, 6) if isinstance(value, float) else value for name, value in kept}}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, request_id, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = _fields_of(record)
        if request := request_id.get():
            line["request_id"] = request
        line |= fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, event and the fields; what a person reads. A client's bytes cannot start a line of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        event = record.getMessage().replace("\r", "\\r")
        fields = dict(_fields_of(record))
        if request := request_id.get():
            fields.setdefault("request_id", request)
        tail = "".join(f" {name}={_short(value)}" for name, value in fields.items())
        text = f"{time} {record.levelname.lower():7} {event}{tail}".replace("\n", "\\n")
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS, {})
    return fields


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ",".join(str(each) for each in value)
    return str(value)

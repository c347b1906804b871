"""Log lines: their format, their fields, their request."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from tritserve import logs
from tritserve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give every logger back as it was."""
    names = ("", "uvicorn", "uvicorn.error", "asyncio", "httpx", "httpcore")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def written(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, **settings: str) -> Stream:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    logs.set_up_logging(Settings(**settings))  # type: ignore[arg-type]
    return stream


def test_lines_are_json_away_from_a_terminal_with_request_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(monkeypatch, is_terminal=False)
    token = logs.request_id.set("req_1")
    try:
        logging.getLogger("tritserve.x").info(
            "two %s", "words", extra=logs.with_fields(tokens=3, none=None, empty="", seconds=0.1 + 0.2)
        )
    finally:
        logs.request_id.reset(token)
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "tritserve.x",
        "event": "two words",
        "request_id": "req_1",
        "tokens": 3,
        "seconds": 0.3,
    }


def test_lines_are_for_people_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(monkeypatch, is_terminal=True)
    logging.getLogger("tritserve.x").warning("two words", extra=logs.with_fields(seconds=0.123456, each=("a", "b")))
    assert stream.getvalue().split(" ", 1)[1] == "warning two words seconds=0.1235 each=a,b\n"


def test_traceback_is_one_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(monkeypatch, is_terminal=False)
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("tritserve.x").exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError" in json.loads(stream.getvalue())["traceback"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_text_of_others_cannot_begin_a_line(monkeypatch: pytest.MonkeyPatch, log_format: str) -> None:
    stream = written(monkeypatch, is_terminal=False, log_format=log_format)
    logging.getLogger("tritserve.x").info("a\r\nb", extra=logs.with_fields(field="c\nd"))
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()


def test_format_and_level_follow_the_settings_and_setting_up_twice_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written(monkeypatch, is_terminal=True)
    stream = written(monkeypatch, is_terminal=True, log_format="json", log_level="error")
    logging.getLogger("tritserve.x").warning("quiet")
    logging.getLogger("tritserve.x").error("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]

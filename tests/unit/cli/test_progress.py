"""Progress of a conversion: a bar on a terminal, one log line elsewhere, nothing where nothing is done."""

import io
import logging
import sys
from pathlib import Path

import pytest

from tritserve.cli.progress import conversion_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), conversion_progress(Path("some/model")) as progress:
        for done in range(10):
            progress("packing", done, 10)
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["converting some/model"]


def test_terminal_shows_what_is_done(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO), conversion_progress(Path("some/model")) as progress:
        progress("packing embed", 5_000_000, 10_000_000)
    assert "packing embed" in terminal.getvalue()
    assert not caplog.records


def test_nothing_is_shown_for_what_is_there_already(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO), conversion_progress(Path("some/model")):
        pass
    assert (terminal.getvalue(), caplog.records) == ("", [])

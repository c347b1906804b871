"""The gate on instruction counts: what fails it, what it says, and that it never fails for a missing tool."""

import sys
from pathlib import Path

import pytest
from benchmarks.instructions import __main__ as gate


def test_a_count_beyond_the_tolerance_fails_and_one_within_does_not() -> None:
    lines, grown = gate.compare({"decode": 1019, "prefill": 900}, {"decode": 1000, "prefill": 1000})
    assert not grown
    assert "+1.90%" in lines[0]
    assert "renew" in lines[1]
    assert gate.compare({"decode": 1021}, {"decode": 1000})[1]


def test_work_without_a_committed_count_fails() -> None:
    assert gate.compare({"decode": 1}, {})[1]


def run(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["instructions", "--driver", str(driver)])
    gate.main()


def test_without_valgrind_nothing_is_compared_and_the_reason_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate.shutil, "which", lambda name: None)
    run(monkeypatch, tmp_path / "step_driver")
    assert "valgrind is not here" in capsys.readouterr().out


def test_a_compiler_without_counts_is_not_compared_with_another_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho '#define __GNUC__ 99'\n")
    compiler.chmod(0o755)
    (tmp_path / "CMakeCache.txt").write_text(f"CMAKE_C_COMPILER:FILEPATH={compiler}\n")
    monkeypatch.setattr(gate.shutil, "which", lambda name: "/bin/true")
    run(monkeypatch, tmp_path / "step_driver")
    assert "gcc 99" in capsys.readouterr().out

"""`tritserve doctor`: each fact and check, on machines made of files and on damaged models."""

import json
import resource
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tritserve.cli import diagnosis
from tritserve.cli.diagnosis import (
    Check,
    calibration_facts,
    check_answers,
    check_checksums,
    check_machine,
    check_plan,
    cpu_facts,
    isa_facts,
)
from tritserve.cli.doctor import app, examine
from tritserve.isa import Isa
from tritserve.machine import Machine, NumaNode
from tritserve.model.packed_file import open_packed
from tritserve.model.shapes import SHAPES, write_random_model
from tritserve.native.lib import Model
from tritserve.native.types import Timing
from tritserve.settings import Settings

MACHINE = Machine((NumaNode((0, 1, 2, 3), 2),), 1.5, 2**31, 2**30)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.trit"
    write_random_model(path, SHAPES["tiny"], known_answer=True)
    return path


def machine_with(root: Path, cpuinfo: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(cpuinfo)
    return root


def test_processor_is_described_from_what_the_kernel_says(tmp_path: Path) -> None:
    root = machine_with(tmp_path, "model name\t: Some CPU\nflags\t\t: fpu avx avx2 fma\n\nmodel name\t: Other\n")
    facts = cpu_facts(MACHINE, root)
    assert (facts["name"], facts["features"]) == ("Some CPU", ["avx", "avx2", "fma"])
    assert (facts["allowed_processors"], facts["physical_cores"], facts["quota_cores"]) == ([0, 1, 2, 3], 2, 1.5)


def test_arm_features_and_a_machine_without_cpuinfo_are_understood(tmp_path: Path) -> None:
    assert cpu_facts(MACHINE, tmp_path)["features"] == []
    root = machine_with(tmp_path, "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert cpu_facts(MACHINE, root)["features"] == ["asimddp", "i8mm"]


def test_reason_why_an_instruction_set_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {Isa.REF: None, Isa.AMX: "this processor lacks amx_tile, amx_int8"}
    monkeypatch.setattr(diagnosis, "isa_problem", lambda isa: reasons.get(isa, "not in this build"))
    available = isa_facts(Settings())["available"]
    assert isinstance(available, dict)
    assert list(available) == [isa.label for isa in Isa if isa >= Isa.REF]
    assert (available["ref"], available["amx"]) == ("yes", "this processor lacks amx_tile, amx_int8")
    assert available["neon"] == "not in this build"


def test_calibration_shows_the_kernel_that_serves_first_with_its_time(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [Timing("gemv", "a__avx2", 3e-6, False), Timing("gemv", "a__amx", 1.25e-6, True)]
    monkeypatch.setattr(Model, "_read_timings", lambda self: measured)
    with open_packed(model) as packed:
        assert calibration_facts(Settings(), packed) == {"gemv": ["a__amx 1.2 us", "a__avx2 3.0 us"]}
        monkeypatch.setattr(Model, "_read_timings", lambda self: [])
        assert "one instruction set" in str(calibration_facts(Settings(), packed))
        assert calibration_facts(Settings(isa="ref"), packed) == {"not measured": "isa is set"}
        assert calibration_facts(Settings(calibrate=False), packed) == {"not measured": "calibrate is off"}


def test_chosen_instruction_set_follows_the_setting() -> None:
    facts = isa_facts(Settings(isa="ref"))
    assert (facts["chosen"], facts["why"]) == ("ref", "as set")


def test_quota_below_a_core_few_files_and_the_slow_path_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    small = Machine(MACHINE.nodes, 0.5, None, 2**30)
    results = {check.name: check.result for check in check_machine(Settings(isa="ref"), small)}
    assert results == {"shared memory": "ok", "kernels": "warn", "processor quota": "warn", "open files": "warn"}


def test_instruction_set_that_cannot_run_here_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "isa_supported", lambda isa: False)
    assert Check("kernels", "fail", "isa is set to neon, which cannot run here") in check_machine(
        Settings(isa="neon"), MACHINE
    )


def test_whole_model_passes_on_every_instruction_set(model: Path) -> None:
    with open_packed(model) as packed:
        assert check_checksums(packed).result == "ok"
        answers = check_answers(packed, 1)
    assert {check.result for check in answers} == {"ok"}
    assert answers[0].name == "self-test, ref"


def test_flipped_weight_fails_checksum_and_self_test(model: Path) -> None:
    with open_packed(model) as packed:
        spot = next(tensor for tensor in packed.header.tensors if tensor.kind == 0).offset
    content = bytearray(model.read_bytes())
    content[spot] = content[spot] & 0xFC | (1 if content[spot] & 3 != 1 else 2)  # another weight, not an invalid code
    model.write_bytes(content)
    with open_packed(model) as packed:
        assert check_checksums(packed).result == "fail"
        assert {check.result for check in check_answers(packed, 1)} == {"fail"}


def test_missing_memory_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "read_machine", lambda: Machine(MACHINE.nodes, None, 2**20, 2**20))
    with open_packed(model) as packed:
        check, starts = check_plan(Settings(), packed)
    assert (check.result, starts) == ("fail", [])
    assert "bytes are missing" in check.detail


def test_absent_model_is_a_failed_check_and_status_1(tmp_path: Path) -> None:
    _, checks = examine("/no/such/model", Settings(cache_dir=tmp_path))
    assert checks[-1].result == "fail"
    result = CliRunner().invoke(app, ["/no/such/model", "--cache-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "fail" in result.output


def test_bundle_holds_the_report_but_no_key(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITSERVE_API_KEY", "hunter2")
    bundle = tmp_path / "bundle.json"
    result = CliRunner().invoke(app, [str(model), "--cache-dir", str(tmp_path), "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    report = json.loads(bundle.read_text())
    assert {"software", "cpu", "isa", "threads", "memory", "settings", "model", "checks"} <= set(report)
    assert "hunter2" not in bundle.read_text()

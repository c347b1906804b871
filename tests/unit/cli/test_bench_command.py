"""`tritserve bench`: the object it prints, what it refuses, and that a random model is written once."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tritserve.cli import bench as bench_module
from tritserve.cli.bench import app
from tritserve.cli.bench_limits import Limits, buffer_bytes
from tritserve.cli.bench_measure import Plan, measure_steps
from tritserve.cli.bench_shape import random_model
from tritserve.errors import ModelFileError, SettingsError
from tritserve.isa import Isa
from tritserve.model.header import TERNARY_KINDS
from tritserve.model.packed_file import open_packed

ROW_KEYS = [
    "work",
    "batch",
    "context",
    "threads",
    "isa",
    "tokens_per_second",
    "bytes_per_token",
    "head_bytes_per_token",
    "head_finished_per_row",
    "head_undecided_share",
    "ops_per_token",
    "zero_share",
    "closed_gates_share",
    "cpu_seconds_per_1000_tokens",
    "memory_share",
    "compute_share",
    "share_of_limit",
    "limit",
]
SMALL_BUFFER = 1 << 20


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "buffer_bytes", lambda available, cache: SMALL_BUFFER)


def run(cache: Path, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*arguments, "--json", "--cache-dir", str(cache)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_one_object_with_machine_limits_and_rows(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        *("--shape", "tiny", "--threads", "2", "--isa", "auto", "--prefill", "32", "--decode", "8", "--batch", "1,3"),
    )
    assert {"machine", "limits", "rows", "body", "model"} == set(report)
    rows = report["rows"]
    assert isinstance(rows, list)
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    assert [(row["work"], row["batch"], row["context"], row["threads"]) for row in rows] == [
        ("prefill", 1, 32, 2),
        ("decode", 1, 32, 2),
        ("decode", 3, 32, 2),
    ]
    for row in rows:
        speed = row["tokens_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert row["limit"] in ("memory", "compute")
    limits = report["limits"]
    assert isinstance(limits, dict)
    assert set(limits) == {"read_from", "read_bytes_per_second", "best_read", "int8_ops_per_second"}
    assert limits["read_from"] == "memory of its own"  # the model is smaller than what must be read
    for threads in ("1", "2"):
        assert limits["best_read"][threads]["bytes_per_second"] > 0
        assert "stream" in limits["best_read"][threads]["pattern"]
    assert set(report["limits"]["int8_ops_per_second"]["ref"]) == {"1", "2"}  # type: ignore[index]
    assert set(report["body"]) == {"1", "2"}  # type: ignore[call-overload]


def test_table_for_people_names_work_and_limits(tmp_path: Path) -> None:
    arguments = ["--shape", "tiny", "--threads", "1", "--prefill", "16", "--decode", "2", "--batch", "1"]
    result = CliRunner().invoke(app, [*arguments, "--cache-dir", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    for word in (
        "sequential read, GB/s",
        "best read, GB/s",
        "int8 ref, TOPS",
        "GEMV, GB/s",
        "prefill",
        "decode",
        "tokens/s",
    ):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1,x"], "--batch is '1,x', expected numbers"),
        (["--batch", "0"], "expected numbers from 1"),
        (["--batch", "4096"], "expected numbers from 1"),
        (["--shape", "enormous"], "--shape enormous is not known; there are: bitnet-b1.58-2b-4t"),
        (["demo", "--shape", "tiny"], "not both"),
        (["--shape", "tiny", "--prefill", "250", "--decode", "8"], "but this model has 256"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CliRunner().invoke(app, [*arguments, "--cache-dir", str(tmp_path)], catch_exceptions=False)


def test_instruction_set_that_cannot_run_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "supported_isas", lambda: [Isa.REF])
    with pytest.raises(
        SettingsError, match="--isa neon cannot run here, not measured; this machine and build run: ref"
    ):
        CliRunner().invoke(app, ["--isa", "neon", "--cache-dir", str(tmp_path)], catch_exceptions=False)


def test_kv_memory_is_bounded(tmp_path: Path) -> None:
    path = random_model("tiny", tmp_path, lambda _: None)
    plan = Plan(Isa.REF, 1, 16, 2, (64,), kv_limit_bytes=100_000)
    with (
        open_packed(path) as packed,
        pytest.raises(SettingsError, match=r"of 64 sequences needs .* 100,000 are available"),
    ):
        measure_steps(packed, plan, Limits(SMALL_BUFFER), lambda _: None)


def test_random_model_is_written_once_and_its_name_carries_shape_and_version(tmp_path: Path) -> None:
    said: list[str] = []
    first = random_model("tiny", tmp_path, said.append)
    written = first.stat().st_mtime_ns
    assert random_model("tiny", tmp_path, said.append) == first
    assert first.stat().st_mtime_ns == written
    assert len(said) == 1
    assert first.name.startswith("random-tiny-fast-v")
    first.write_bytes(first.read_bytes()[:-1])  # an interrupted copy
    assert random_model("tiny", tmp_path, said.append) == first
    open_packed(first).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, f"{first.name}.lock"]


def test_dense_weights_are_a_file_of_their_own_and_a_fifth_smaller(tmp_path: Path) -> None:
    fast = random_model("small", tmp_path, lambda _: None, "fast")
    dense = random_model("small", tmp_path, lambda _: None, "dense")
    assert fast != dense
    assert random_model("small", tmp_path, lambda _: None) == fast
    with open_packed(fast) as first, open_packed(dense) as second:
        bodies = [sum(t.bytes for t in each.header.tensors if t.kind in TERNARY_KINDS) for each in (first, second)]
    assert 0.80 <= bodies[1] / bodies[0] < 0.81


def test_a_shape_that_comes_dense_only_is_refused_otherwise(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--shape bitnet-100b comes with --weights dense only"):
        random_model("bitnet-100b", tmp_path, lambda _: None, "fast")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1000, f_frsize=4096))
    with pytest.raises(
        ModelFileError, match=r"4,096,000 bytes are free, but the random model needs 2\d,\d{3},\d{3},\d{3}"
    ):
        random_model("bitnet-100b", tmp_path, lambda _: None, "dense")
    assert not list(tmp_path.glob("*.partial"))


def test_read_bandwidth_is_that_of_the_mapped_file_where_it_is_large_enough(tmp_path: Path) -> None:
    with open_packed(random_model("small", tmp_path, lambda _: None)) as packed:
        assert packed.file_bytes > SMALL_BUFFER
        limits = Limits(SMALL_BUFFER, packed)
        limits.sample_all(1)
    report = limits.report()
    assert report["read_from"] == "mapped file"
    assert report["read_bytes_per_second"]["1"]["median"] > 0  # type: ignore[index]


def test_buffer_exceeds_the_caches_but_not_the_memory() -> None:
    gib = 2**30
    assert buffer_bytes(64 * gib, 32 * 2**20) == 256 * 2**20
    assert buffer_bytes(64 * gib, 256 * 2**20) == gib
    assert buffer_bytes(gib, 256 * 2**20) == gib // 8

"""Metrics: what moves them, what exists from the start, and that the encoder writes what the client library would."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tritserve.api.record import RequestRecord
from tritserve.energy import package_joules
from tritserve.machine import cpu_throttled_seconds
from tritserve.pool.generation import PoolStatus
from tritserve.protocol import Hello, KernelTime, StepStats
from tritserve.telemetry import Telemetry

if TYPE_CHECKING:
    from tritserve.pool.observer import PoolObserver

READY = PoolStatus(
    ready=True,
    draining=False,
    failed=None,
    num_workers=1,
    isa="avx2",
    kernels="avx2",
    num_threads=2,
    max_model_len=1024,
    num_running=3,
    num_waiting=2,
    kv_used_bytes=10,
    kv_capacity_bytes=100,
    oldest_waiting_seconds=1.5,
)
HELLO = Hello(
    version=1,
    pid=1,
    vocab=100,
    isa="avx2",
    kernels="avx2",
    num_threads=2,
    num_blocks=1,
    num_adopted_blocks=0,
    block_bytes=1,
    max_model_len=1024,
    load_seconds=0.5,
    self_test_seconds=0.25,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def telemetry(**options: Any) -> Telemetry:
    return Telemetry(**{"model": "demo", "context": 1024, "queue_limit": 7, "weights_sha256": "ab", **options})


def value(metrics: Telemetry, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"tritserve_{name}", {"model": "demo", **labels})


def record(**fields: Any) -> RequestRecord:
    usual: dict[str, Any] = {
        "request_id": "r",
        "endpoint": "chat",
        "model": "demo",
        "key_name": "",
        "stream": False,
        "outcome": "stop",
        "duration_seconds": 2.0,
        "num_prompt_tokens": 5,
        "num_generated_tokens": 3,
    }
    return RequestRecord(**{**usual, **fields})


def stats(seconds: float = 0.1, decode: int = 0, prefill: int = 0, running: int = 0, evictions: int = 0) -> StepStats:
    return StepStats(seconds, decode, prefill, 0, running, 0, 0, evictions)


def test_encoder_writes_byte_for_byte_what_the_client_library_would() -> None:
    metrics = telemetry(model='we"ird\\ \n')
    metrics.on_ready(0, HELLO)
    metrics.on_step(0, stats(1234567.0, 1, 2, 3, 4))
    metrics.on_inter_token(0.0123)
    metrics.on_prompt(10_000_000, 5)
    metrics.finish_request(record())
    metrics.on_http_answer("/v1/models", "GET", 200)
    for status in (READY, READY):
        assert metrics.render(status, "")[0] == generate_latest(metrics.registry)
        assert metrics.render(status, "application/openmetrics-text")[0] == generate_openmetrics(metrics.registry)


def test_every_family_is_described_bounded_and_carries_the_model() -> None:
    metrics = telemetry()
    families = list(text_string_to_metric_families(metrics.render(READY, "application/openmetrics-text")[0].decode()))
    assert len(families) > 30
    for family in families:
        assert family.name.startswith("tritserve_"), family
        assert family.documentation.endswith("."), family
        assert all(sample.labels["model"] == "demo" for sample in family.samples)
        if family.type == "histogram":
            buckets = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
            assert len(buckets) <= 26, family.name  # +Inf is one


def test_known_label_sets_start_at_zero() -> None:
    metrics = telemetry()
    for name, labels in (
        ("requests_total", {"endpoint": "completions", "outcome": "timeout"}),
        ("requests_rejected_total", {"reason": "too_long"}),
        ("time_to_first_token_seconds_count", {"endpoint": "chat"}),
        ("engine_step_seconds_count", {"kind": "mixed"}),
        ("cancelled_total", {"stage": "prefill"}),
        ("worker_restarts_total", {"reason": "hang"}),
        ("requests_resumed_total", {"reason": "crash"}),
        ("numeric_faults_total", {"kind": "logits"}),
        ("prompt_tokens_total", {"source": "cached"}),
        ("generated_tokens_total", {}),
    ):
        assert value(metrics, name, **labels) == 0, name


def test_every_metric_of_the_dashboard_is_exported() -> None:
    dashboard = json.loads(
        (Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "tritserve.json").read_text()
    )
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    metrics = telemetry()
    metrics.on_ready(0, HELLO)
    metrics.preset_routes([("/health", "GET")])
    metrics.finish_request(record())
    text = metrics.render(READY, "")[0].decode()
    for name in {found for each in expressions for found in re.findall(r"tritserve_\w+", each)}:
        if name != "tritserve_cpu_throttled_seconds_total":  # where the control group counts
            assert re.search(rf"^{name}{{", text, re.MULTILINE), name


def test_implements_what_the_pool_reports() -> None:
    observer: PoolObserver = telemetry()
    assert observer is not None


def test_gauges_are_read_when_asked() -> None:
    metrics = telemetry()
    for status, ready in ((READY, 1.0), (PoolStatus(False, True, None, 1, "", "", 0, 0, 0, 0, 0, 0), 0.0)):
        metrics.render(status, "")
        assert value(metrics, "ready") == ready
        assert value(metrics, "draining") == 1 - ready
    metrics.render(READY, "")
    expected = {"requests_running": 3, "requests_waiting": 2, "oldest_waiting_seconds": 1.5, "queue_limit": 7}
    expected |= {"kv_cache_used_bytes": 10, "kv_cache_capacity_bytes": 100, "threads": 2}
    assert {name: value(metrics, name) for name in expected} == expected
    served = {"weights_sha256": "ab", "context": "1024", "kv_type": "int16", "batch_invariant": "true"}
    assert value(metrics, "model_info", **served) == 1


def test_times_of_calibrated_kernels_are_shown_where_there_are_any() -> None:
    metrics = telemetry()
    metrics.render(READY, "")
    assert value(metrics, "kernel_seconds", op="gemv", kernel="a", chosen="true") is None
    times = (KernelTime("gemv", "a", 2e-6, True), KernelTime("gemv", "b", 3e-6, False))
    metrics.render(dataclasses.replace(READY, kernel_times=times), "")
    assert value(metrics, "kernel_seconds", op="gemv", kernel="a", chosen="true") == 2e-6
    assert value(metrics, "kernel_seconds", op="gemv", kernel="b", chosen="false") == 3e-6


def test_finished_request_moves_what_it_reached() -> None:
    metrics = telemetry()
    metrics.on_first_token("chat", 0.3)
    metrics.finish_request(record(tpot_seconds=0.05))
    metrics.finish_request(record(outcome="rejected", reject_reason="queue_full", num_generated_tokens=0))
    assert value(metrics, "requests_total", endpoint="chat", outcome="stop") == 1
    assert value(metrics, "requests_total", endpoint="chat", outcome="rejected") == 1
    assert value(metrics, "requests_rejected_total", reason="queue_full") == 1
    assert value(metrics, "request_duration_seconds_sum", endpoint="chat", outcome="stop") == 2
    assert value(metrics, "time_to_first_token_seconds_sum", endpoint="chat") == 0.3
    assert value(metrics, "time_per_output_token_seconds_count") == 1
    assert value(metrics, "request_prompt_tokens_sum") == 5  # of the one that was let in
    assert value(metrics, "request_generated_tokens_count") == 1


@pytest.mark.parametrize(("rows", "kind"), [((2, 0), "decode"), ((0, 9), "prefill"), ((2, 9), "mixed")])
def test_steps_are_told_apart_by_what_was_in_them(rows: tuple[int, int], kind: str) -> None:
    metrics = telemetry()
    metrics.on_step(0, stats(0.1, *rows, running=3))
    assert value(metrics, "engine_step_seconds_count", kind=kind) == 1
    assert value(metrics, "engine_step_tokens_sum") == sum(rows)
    assert value(metrics, "engine_batch_size_sum") == 3


def test_screened_tokens_are_told_apart_by_what_they_read_of_the_low_plane() -> None:
    metrics = telemetry()
    step = stats(0.1, 5, running=5)
    screened = msgspec.structs.replace(step, num_screened_rows=5, num_undecided_rows=2, num_finished_candidates=40)
    metrics.on_step(0, screened)
    assert value(metrics, "screened_tokens_total", read="candidates") == 3
    assert value(metrics, "screened_tokens_total", read="whole") == 2
    assert value(metrics, "screened_candidates_total") == 40


def test_news_without_a_step_is_no_step() -> None:
    metrics = telemetry()
    metrics.on_step(0, stats(0.0, evictions=2))
    assert value(metrics, "engine_step_tokens_count") == 0
    assert value(metrics, "prefix_cache_evictions_total") == 2


def test_time_of_a_worker_is_busy_or_idle() -> None:
    clock = Clock()
    metrics = telemetry(clock=clock)
    metrics.on_ready(0, HELLO)
    clock.now += 5.0
    metrics.on_step(0, stats(1.0, 1))
    clock.now += 2.0
    metrics.on_step(0, stats(2.0, 1))
    assert value(metrics, "engine_busy_seconds_total", worker="0") == 3
    assert value(metrics, "engine_idle_seconds_total", worker="0") == 4
    assert value(metrics, "model_load_seconds") == 0.75


def test_prompt_tokens_are_computed_or_cached_and_looked_up_once() -> None:
    metrics = telemetry()
    metrics.on_prompt(10, 4)
    metrics.on_token()
    names = ("prefix_cache_lookup_tokens_total", "prefix_cache_hit_tokens_total", "generated_tokens_total")
    assert [value(metrics, name) for name in names] == [10, 4, 1]
    assert [value(metrics, "prompt_tokens_total", source=source) for source in ("computed", "cached")] == [6, 4]


@pytest.mark.parametrize(("context", "last"), [(2, 2), (1000, 1024), (1024, 1024), (4096, 4096), (1 << 40, 1 << 24)])
def test_length_buckets_are_powers_of_two_up_to_the_context(context: int, last: int) -> None:
    families = telemetry(context=context).registry.collect()
    family = next(each for each in families if each.name == "tritserve_request_prompt_tokens")
    bounds = [float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")][:-1]
    assert bounds == [float(2**i) for i in range(len(bounds))]
    assert bounds[-1] == last


@pytest.mark.parametrize(
    ("group", "folder", "line"),
    [
        ("0::/a", "sys/fs/cgroup/a", "throttled_usec 1500000"),
        ("4:cpu:/a", "sys/fs/cgroup/cpu/a", "throttled_time 1500000000"),
    ],
)
def test_throttling_and_quota_come_from_the_control_group(tmp_path: Path, group: str, folder: str, line: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "cpu.stat").write_text(f"nr_periods 3\n{line}\n")
    (tmp_path / folder / "cpu.max").write_text("150000 100000")
    assert cpu_throttled_seconds(tmp_path) == 1.5
    metrics = telemetry(root=tmp_path)
    metrics.render(READY, "")
    assert value(metrics, "cpu_throttled_seconds_total") == 1.5
    assert value(metrics, "cpu_quota_cores") == 1.5


def test_what_cannot_be_read_is_absent_not_zero(tmp_path: Path) -> None:
    metrics = telemetry(root=tmp_path)
    text = metrics.render(READY, "")[0].decode()
    for name in ("cpu_quota_cores", "cpu_throttled_seconds", "energy_joules"):
        assert name not in text


def test_energy_is_of_whole_packages_only(tmp_path: Path) -> None:
    for name, label, microjoules in (
        ("intel-rapl:0", "package-0", "2500000"),
        ("intel-rapl:0:0", "core", "1000000"),
        ("intel-rapl:1", "package-1", "not a number"),
    ):
        folder = tmp_path / "sys/class/powercap" / name
        folder.mkdir(parents=True)
        (folder / "name").write_text(label + "\n")
        (folder / "energy_uj").write_text(microjoules)
    assert package_joules(tmp_path) == {"package-0": 2.5}
    metrics = telemetry(root=tmp_path)
    metrics.render(READY, "")
    assert value(metrics, "energy_joules_total", domain="package-0", method="rapl") == 2.5

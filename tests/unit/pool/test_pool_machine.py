"""The machine as read from fake file trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tritserve.errors import SettingsError
from tritserve.machine import (
    Machine,
    NumaNode,
    cpu_quota,
    explain_threads,
    largest_cache_bytes,
    parse_cpu_list,
    read_machine,
    threads_per_worker,
)
from tritserve.pool.sizing import plan_kv_bytes, plan_workers
from tritserve.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def topology(cores: list[tuple[int, int]]) -> dict[str, str]:
    """Files for processors given as (package, core)."""
    files = {}
    for cpu, (package, core) in enumerate(cores):
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/core_id"] = str(core)
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"] = str(package)
    return files


def test_bare_machine_has_one_node_and_no_limits(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB"})
    assert read_machine(root, [0, 1]) == Machine((NumaNode((0, 1), 2),), None, None, 2048 * 1024)


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = tree(tmp_path, topology([(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0)]))
    assert read_machine(root, range(6)).num_cores == 3
    assert read_machine(root, [0, 2]).num_cores == 1


def test_nodes_are_cut_to_the_allowed_processors(tmp_path: Path) -> None:
    nodes = {f"sys/devices/system/node/node{i}/cpulist": text for i, text in ((0, "0-1,8"), (1, "2-3"), (10, "4-5"))}
    root = tree(tmp_path, nodes)
    assert [node.cpus for node in read_machine(root, [1, 4, 5, 8]).nodes] == [(1, 8), (4, 5)]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "100000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 1",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        ({"proc/self/cgroup": "1:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "1 x"}, None),
        ({}, None),
    ],
)
def test_the_tightest_cpu_quota_counts(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota


def test_memory_left_in_the_group_counts_without_unused_page_cache(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": f"MemAvailable: {64 * GIB // 1024} kB",
            "proc/self/cgroup": "0::/pod",
            "sys/fs/cgroup/pod/memory.max": str(4 * GIB),
            "sys/fs/cgroup/pod/memory.current": str(3 * GIB),
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB}",
        },
    )
    machine = read_machine(root, [0])
    assert (machine.memory_limit_bytes, machine.available_bytes) == (4 * GIB, 2 * GIB)


def test_version_one_memory_limit_and_its_word_for_none(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": f"MemAvailable: {8 * GIB // 1024} kB",
        "proc/self/cgroup": "4:memory:/a",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(GIB),
    }
    machine = read_machine(tree(tmp_path, files), [0])
    assert (machine.memory_limit_bytes, machine.available_bytes) == (2 * GIB, GIB)


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.num_cores >= 1
    assert machine.available_bytes > 0


@pytest.mark.parametrize(("text", "cpus"), [("0-2,5", [0, 1, 2, 5]), ("", []), ("7", [7]), ("x,1", [1])])
def test_cpu_lists(text: str, cpus: list[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("cores", "quota", "workers", "threads"),
    [(8, None, 1, 8), (8, None, 2, 4), (8, 3.7, 1, 3), (2, 0.5, 1, 1), (2, None, 4, 1)],
)
def test_threads_follow_cores_and_quota(cores: int, quota: float | None, workers: int, threads: int) -> None:
    machine = Machine((NumaNode(tuple(range(cores)), cores),), quota, None, GIB)
    assert threads_per_worker(machine, workers) == (threads,) * workers


def smt_machine_with_two_nodes() -> dict[str, str]:
    """Two packages of two cores of two hardware threads: processors 0-3 are the first threads, 4-7 their siblings."""
    nodes = {f"sys/devices/system/node/node{i}/cpulist": text for i, text in enumerate(("0-1,4-5", "2-3,6-7"))}
    return topology([(cpu % 4 // 2, cpu % 2) for cpu in range(8)]) | nodes


def test_each_node_of_an_smt_machine_has_a_thread_per_core(tmp_path: Path) -> None:
    machine = read_machine(tree(tmp_path, smt_machine_with_two_nodes()), range(8))
    assert machine.nodes == (NumaNode((0, 1, 4, 5), 2), NumaNode((2, 3, 6, 7), 2))
    assert threads_per_worker(machine, 2) == (2, 2)
    assert threads_per_worker(machine, 4) == (1, 1, 1, 1)


def test_affinity_leaves_nodes_with_unequal_threads(tmp_path: Path) -> None:
    machine = read_machine(tree(tmp_path, smt_machine_with_two_nodes()), [0, 1, 4, 2, 6])
    assert threads_per_worker(machine, 2) == (2, 1)
    assert threads_per_worker(machine, 3) == (1, 1, 1)


@pytest.mark.parametrize(
    "quota",
    [
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "290000 100000"},
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/x",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "290000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        },
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_workers_of_two_nodes_share_the_quota(tmp_path: Path, quota: dict[str, str]) -> None:
    machine = read_machine(tree(tmp_path, smt_machine_with_two_nodes() | quota), range(8))
    assert machine.quota_cores == 2.9
    assert threads_per_worker(machine, 2) == (1, 1)
    assert threads_per_worker(machine, 1) == (2,)


def test_kv_takes_half_of_what_is_free_up_to_two_gib() -> None:
    assert plan_kv_bytes(0, 64 * GIB, GIB, 1) == 2 * GIB
    assert plan_kv_bytes(0, 3 * GIB + 256 * 1024**2, GIB, 1) == GIB
    assert plan_kv_bytes(5 * GIB, 16 * GIB, GIB, 2) == 5 * GIB


def test_missing_bytes_are_named() -> None:
    with pytest.raises(SettingsError, match=f"{GIB + 256 * 1024**2} bytes are missing"):
        plan_kv_bytes(2 * GIB, 2 * GIB, GIB, 1)
    with pytest.raises(SettingsError, match="bytes are missing"):
        plan_kv_bytes(0, GIB, GIB, 1)


def test_one_worker_per_node_pinned_to_it(tmp_path: Path) -> None:
    machine = Machine((NumaNode((0, 1), 2), NumaNode((2, 3), 2)), None, None, 16 * GIB)
    starts = plan_workers(Settings(), machine, tmp_path / "m.trit", 1000)
    assert [(start.cpus, start.num_threads) for start in starts] == [([0, 1], 2), ([2, 3], 2)]


def test_a_worker_that_spans_nodes_has_their_cores_and_is_pinned_to_none(tmp_path: Path) -> None:
    machine = Machine((NumaNode((0, 1), 2), NumaNode((2, 3), 2)), None, None, 16 * GIB)
    (start,) = plan_workers(Settings(workers=1), machine, tmp_path / "m.trit", 1000)
    assert (start.cpus, start.num_threads) == ([], 4)


@pytest.mark.parametrize(
    ("machine", "workers", "wanted", "why"),
    [
        (Machine((NumaNode((0, 1), 2),), None, None, 0), 1, 0, "2 physical cores"),
        (Machine((NumaNode((0,), 1),), None, None, 0), 1, 0, "1 physical core"),
        (Machine((NumaNode((0, 1), 2),), None, None, 0), 1, 3, "as set"),
        (Machine((NumaNode((0, 1, 2, 3), 2),), 8.0, None, 0), 1, 0, "2 physical cores behind 4 allowed processors"),
        (
            Machine((NumaNode((0, 1), 2),), 1.5, None, 0),
            1,
            0,
            "the control group's quota of 1.5 of 2 physical cores",
        ),
        (
            Machine((NumaNode((0, 1), 2), NumaNode((2, 3), 2)), None, None, 0),
            2,
            0,
            "4 physical cores, shared by 2 workers",
        ),
    ],
)
def test_number_of_threads_is_explained(machine: Machine, workers: int, wanted: int, why: str) -> None:
    assert explain_threads(machine, workers, wanted) == why


def test_largest_cache_is_read_or_unknown(tmp_path: Path) -> None:
    assert largest_cache_bytes(tmp_path) == 0
    sizes = {
        f"sys/devices/system/cpu/cpu0/cache/index{i}/size": text for i, text in enumerate(("32K", "1024K", "32768K"))
    }
    assert largest_cache_bytes(tree(tmp_path, sizes)) == 32 * 1024**2

"""What this machine gives us: processors, NUMA nodes, the control group's quota and memory.

Pure functions of the files below ``root`` (the file system, or a test's copy of a few files) and the allowed processors.
Inside a container the control group's own limits count, not the machine's: both versions of control groups are read, every
level from our group up, and the tightest wins.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_V1_UNLIMITED = 1 << 60  # version 1 writes the largest page-aligned int64 for "none"


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A node's allowed processors, and how many physical cores they are."""

    cpus: tuple[int, ...]
    num_cores: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that sizes the workers. ``quota_cores`` and ``memory_limit_bytes`` are None where nothing limits."""

    nodes: tuple[NumaNode, ...]
    quota_cores: float | None
    memory_limit_bytes: int | None
    available_bytes: int

    @property
    def num_cores(self) -> int:
        """Physical cores we may use."""
        return sum(node.num_cores for node in self.nodes)


def read_machine(root: Path = Path("/"), allowed_cpus: Iterable[int] | None = None) -> Machine:
    """Read the machine below ``root``; ``allowed_cpus`` defaults to this process's affinity."""
    cpus = sorted(os.sched_getaffinity(0) if allowed_cpus is None else allowed_cpus)
    limit, free = _memory_limits(root)
    free_in_machine = _meminfo(root).get("MemAvailable", 0)
    return Machine(
        nodes=numa_nodes(root, cpus),
        quota_cores=cpu_quota(root),
        memory_limit_bytes=limit,
        available_bytes=free_in_machine if free is None else min(free_in_machine, free),
    )


def node_of_worker(machine: Machine, num_workers: int, index: int) -> NumaNode | None:
    """Return the node that worker ``index`` keeps to, or None: one node, or fewer workers than nodes, so that each spans several."""
    return machine.nodes[index % len(machine.nodes)] if num_workers >= len(machine.nodes) > 1 else None


def threads_per_worker(machine: Machine, num_workers: int) -> tuple[int, ...]:
    """Return the compute threads of each worker: one per physical core of its node, within the quota, at least one.

    A second thread on a core adds nothing to integer dot products that fill its units. The quota is rounded down: a
    thread beyond it makes the whole group sleep until the next period.
    """
    share = None if machine.quota_cores is None else math.floor(machine.quota_cores) // num_workers
    threads = []
    for index in range(num_workers):
        node = node_of_worker(machine, num_workers, index)
        if node is None:
            cores = machine.num_cores // num_workers
        else:
            neighbours = len(range(index % len(machine.nodes), num_workers, len(machine.nodes)))
            cores = node.num_cores // neighbours
        threads.append(max(1, cores if share is None else min(cores, share)))
    return tuple(threads)


def explain_threads(machine: Machine, num_workers: int, wanted: int) -> str:
    """Say why a worker has the threads that ``threads_per_worker`` gives it; ``wanted`` is the setting, 0 for none."""
    if wanted:
        return "as set"
    cores = f"{machine.num_cores} physical core{'s' * (machine.num_cores != 1)}"
    num_cpus = sum(len(node.cpus) for node in machine.nodes)
    if num_cpus > machine.num_cores:
        cores += f" behind {num_cpus} allowed processors"
    if machine.quota_cores is not None and math.floor(machine.quota_cores) < machine.num_cores:
        cores = f"the control group's quota of {machine.quota_cores:g} of {cores}"
    return cores if num_workers == 1 else f"{cores}, shared by {num_workers} workers"


def numa_nodes(root: Path, allowed: Iterable[int]) -> tuple[NumaNode, ...]:
    """Return the nodes that have allowed processors; one node with all of them where the kernel names none."""
    cpus = frozenset(allowed)
    found = []
    for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*/cpulist"), key=_number_of_node):
        own = cpus & frozenset(parse_cpu_list(_read(path) or ""))
        if own:
            found.append(own)
    return tuple(NumaNode(tuple(sorted(own)), physical_cores(root, own)) for own in found or [cpus])


def physical_cores(root: Path, cpus: Iterable[int]) -> int:
    """Count the cores behind ``cpus``: hardware threads of one core count once."""
    cores = set()
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core, package = _read(folder / "core_id"), _read(folder / "physical_package_id")
        cores.add(("cpu", str(cpu)) if core is None else (package or "", core))
    return len(cores)


def largest_cache_bytes(root: Path = Path("/")) -> int:
    """Return the size of the first processor's largest cache, 0 where the kernel does not say."""
    sizes = [_read(path) or "" for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(text[:-1]) * 1024 for text in sizes if text.endswith("K") and text[:-1].isdigit()), default=0)


def cpu_quota(root: Path) -> float | None:
    """Return the cores' worth of time our control group may use, or None."""
    quotas = []
    for folder in _group_folders(root, "cpu"):
        words = (_read(folder / "cpu.max") or "").split()  # version 2: "200000 100000" or "max 100000"
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _integer(folder / "cpu.cfs_quota_us"), _integer(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def cpu_throttled_seconds(root: Path) -> float | None:
    """Return how long our control group was made to wait for its quota, or None where nobody counts."""
    for folder in _group_folders(root, "cpu"):
        counts = _statistics(folder / "cpu.stat")
        if "throttled_usec" in counts:  # version 2
            return counts["throttled_usec"] / 1e6
        if "throttled_time" in counts:  # version 1, in nanoseconds
            return counts["throttled_time"] / 1e9
    return None


def parse_cpu_list(text: str) -> list[int]:
    """Read the kernel's list format: ``0-3,8,10-11``."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _memory_limits(root: Path) -> tuple[int | None, int | None]:
    """Return the tightest limit in bytes and what is left below the tightest of all levels, each None without one."""
    limits, left = [], []
    for folder in _group_folders(root, "memory"):
        for limit_name, usage_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _integer(folder / limit_name)
            if limit is None or limit >= _V1_UNLIMITED:
                continue
            limits.append(limit)
            # Page cache that nobody uses is given back before anything is killed.
            usage = (_integer(folder / usage_name) or 0) - _statistics(folder / "memory.stat").get(cache_name, 0)
            left.append(max(0, limit - max(0, usage)))
    return min(limits, default=None), min(left, default=None)


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield our control group's folder and those above it, of both versions."""
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2, mounted alone or beside version 1
            mounts = [base, base / "unified"]
        elif controller in controllers.split(","):
            mounts = [base / controllers, base / controller]
        else:
            continue
        for mount in mounts:
            yield from _upwards(mount, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    # Without a namespace of its own a container sees the host's path here, but only its own group below the mount.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _meminfo(root: Path) -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    lines = (line.split() for line in (_read(root / "proc/meminfo") or "").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[1].isdigit()}


def _statistics(path: Path) -> dict[str, int]:
    lines = (line.split() for line in (_read(path) or "").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def _number_of_node(path: Path) -> int:
    return int(path.parent.name.removeprefix("node"))


def _integer(path: Path) -> int | None:
    text = _read(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None  # "max"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

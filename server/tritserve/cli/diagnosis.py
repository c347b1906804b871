"""What ``tritserve doctor`` looks at: facts about the machine as plain values, and checks that pass or say why not."""

from __future__ import annotations

import functools
import os
import platform
import resource
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tritserve.errors import ModelFileError, ServerError
from tritserve.isa import Isa
from tritserve.machine import explain_threads, read_machine
from tritserve.model.known_answer import logits_digest
from tritserve.model.packed_file import verify_payload
from tritserve.native.lib import Model, best_isa, isa_kernels, isa_problem, isa_supported
from tritserve.pool.launch import create_kv_memory
from tritserve.pool.sizing import plan_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritserve.machine import Machine
    from tritserve.model.packed_file import PackedModel
    from tritserve.protocol import Start
    from tritserve.settings import Settings

_FEATURES = (
    *("avx", "f16c", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"),
    *("avx512_vbmi", "avx512_bf16", "amx_tile", "amx_int8", "asimddp", "i8mm", "sve", "sve2"),
)
"""What /proc/cpuinfo calls the features worth knowing; x86 lists them only where the system allows their use."""
_SPARE_FILES = 64


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. ``warn``: it works, but not as well as it could."""

    name: str
    result: Literal["ok", "warn", "fail"]
    detail: str


def cpu_facts(machine: Machine, root: Path = Path("/")) -> dict[str, object]:
    """Return what the processor is and what of it we may use."""
    fields = _cpuinfo(root)
    words = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "name": fields.get("model name") or platform.machine(),
        "architecture": platform.machine(),
        "features": [name for name in _FEATURES if name in words],
        "allowed_processors": [cpu for node in machine.nodes for cpu in node.cpus],
        "physical_cores": machine.num_cores,
        "numa_nodes": len(machine.nodes),
        "quota_cores": machine.quota_cores,
    }


def isa_facts(settings: Settings) -> dict[str, object]:
    """Return which instruction sets can run, why the others cannot, and which one serves with which kernels."""
    chosen = best_isa() if settings.isa == "auto" else Isa.named(settings.isa)
    return {
        "chosen": chosen.label,
        "why": "the best of this processor, system and build" if settings.isa == "auto" else "as set",
        "kernels": isa_kernels(chosen),
        "available": {isa.label: isa_problem(isa) or "yes" for isa in Isa if isa >= Isa.REF},
    }


def calibration_facts(settings: Settings, packed: PackedModel) -> dict[str, object]:
    """Return, by op, what each kernel took on this model's sizes, the one that would serve first; or why nothing was measured."""
    if settings.isa != "auto" or not settings.calibrate:
        return {"not measured": "isa is set" if settings.isa != "auto" else "calibrate is off"}
    header = packed.header
    try:
        with Model(packed.fd, header.architecture, header.tensors, calibrate=True) as model:
            timings = sorted(model.timings, key=lambda timing: not timing.chosen)
    except ServerError as error:
        return {"not measured": str(error)}
    if not timings:
        return {"not measured": "there is one instruction set to choose from"}
    facts: dict[str, object] = {op: [] for op in dict.fromkeys(timing.op for timing in timings)}
    for op in facts:
        facts[op] = [f"{t.kernel} {t.seconds * 1e6:.1f} us" for t in timings if t.op == op]
    return facts


def memory_facts(machine: Machine) -> dict[str, object]:
    """Return bytes available to us and the control group's limit."""
    return {"available_bytes": machine.available_bytes, "limit_bytes": machine.memory_limit_bytes}


def plan_facts(settings: Settings, machine: Machine, starts: list[Start]) -> dict[str, object]:
    """Return how many workers and threads would serve, and why."""
    return {
        "workers": len(starts),
        "per_worker": starts[0].num_threads,
        "why": explain_threads(machine, len(starts), settings.threads),
        "kv_bytes_per_worker": starts[0].kv_bytes,
        "kv_dtype": starts[0].kv_dtype,
    }


def software_facts() -> dict[str, object]:
    """Return versions of what runs here."""
    return {
        "tritserve": version("tritserve"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
    }


def check_machine(settings: Settings, machine: Machine) -> list[Check]:
    """Check what serving needs of the system besides memory."""
    return [
        _attempt("shared memory", "anonymous, sealed", lambda: os.close(create_kv_memory(1 << 20))),
        _check_speed(settings),
        _check_quota(machine),
        _check_open_files(settings),
    ]


def check_plan(settings: Settings, packed: PackedModel) -> tuple[Check, list[Start]]:
    """Check that model and KV cache fit into the memory. Returns what the workers would be started with, empty if not."""
    try:
        starts = plan_workers(settings, read_machine(), packed.path, packed.file_bytes)
    except ServerError as error:
        return Check("memory", "fail", str(error)), []
    total = packed.file_bytes + sum(start.kv_bytes for start in starts)
    return Check("memory", "ok", f"model and KV cache need {total:,} bytes"), starts


def check_checksums(packed: PackedModel) -> Check:
    """Read the whole packed file and compare every checksum."""
    return _attempt("checksums", f"{packed.file_bytes:,} bytes as written", lambda: verify_payload(packed))


def check_answers(packed: PackedModel, num_threads: int) -> list[Check]:
    """Run the model's known tokens on every instruction set that can run here: all must give the logits of the plain C path."""
    known = packed.header.known_answer
    if known is None:
        return [Check("self-test", "warn", "this model carries no known answer")]

    def run(isa: Isa) -> None:
        header = packed.header
        with Model(packed.fd, header.architecture, header.tensors, isa=isa, n_threads=num_threads) as model:
            digest = logits_digest(model, known.token_ids, n_threads=num_threads)
        if digest != known.logits_sha256:
            raise ModelFileError(f"SHA-256 of the logits is {digest}, expected {known.logits_sha256}")

    able = [isa for isa in Isa if isa >= Isa.REF and isa_supported(isa)]
    good = "the known logits, to the bit"
    return [_attempt(f"self-test, {isa.label}", good, functools.partial(run, isa)) for isa in able]


def _attempt(name: str, good: str, act: Callable[[], object]) -> Check:
    try:
        act()
    except (ServerError, OSError) as error:
        return Check(name, "fail", str(error))
    return Check(name, "ok", good)


def _check_speed(settings: Settings) -> Check:
    if settings.isa != "auto" and not isa_supported(Isa.named(settings.isa)):
        return Check("kernels", "fail", f"isa is set to {settings.isa}, which cannot run here")
    chosen = best_isa() if settings.isa == "auto" else Isa.named(settings.isa)
    if chosen is Isa.REF:
        return Check("kernels", "warn", "only the plain C path serves here, slowly")
    return Check("kernels", "ok", chosen.label)


def _check_quota(machine: Machine) -> Check:
    quota = machine.quota_cores
    if quota is None:
        return Check("processor quota", "ok", "none")
    if quota < 1:
        return Check("processor quota", "warn", f"{quota:g} cores: even one thread will be stopped by it now and then")
    return Check("processor quota", "ok", f"{quota:g} cores")


def _check_open_files(settings: Settings) -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        return Check("open files", "warn", f"{soft} allowed, {needed} wanted for max_connections: raise `ulimit -n`")
    return Check("open files", "ok", f"{needed} wanted for max_connections")


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's fields."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}

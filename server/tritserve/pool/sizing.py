"""How many workers, with how many threads, and how much memory for KV each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.errors import SettingsError
from tritserve.machine import Machine, node_of_worker, threads_per_worker
from tritserve.protocol import PROTOCOL_VERSION, Start

if TYPE_CHECKING:
    from pathlib import Path

    from tritserve.settings import Settings

DEFAULT_KV_BYTES = 2 * 1024**3
_RESERVED_BYTES = 256 * 1024**2
"""Left free: the front, a worker's own memory, the system."""
_SMALLEST_KV_BYTES = 16 * 1024**2


def plan_workers(settings: Settings, machine: Machine, model_path: Path, model_bytes: int) -> list[Start]:
    """Return what each worker is started with. Raises SettingsError naming the missing bytes."""
    num_workers = settings.workers or len(machine.nodes)
    threads = threads_per_worker(machine, num_workers)
    nodes = [node_of_worker(machine, num_workers, index) for index in range(num_workers)]
    kv_bytes = plan_kv_bytes(settings.kv_cache_bytes, machine.available_bytes, model_bytes, num_workers)
    return [
        Start(
            version=PROTOCOL_VERSION,
            model_path=str(model_path),
            isa=settings.isa,
            calibrate=settings.calibrate,
            num_threads=settings.threads or threads[index],
            kv_bytes=kv_bytes,
            kv_dtype=settings.kv_dtype,
            max_model_len=settings.max_model_len,
            max_batch_size=settings.max_batch_size,
            max_step_tokens=settings.max_step_tokens,
            # On one node the system places threads better than we; over several, memory must stay near its cores.
            cpus=[] if node is None else list(node.cpus),
        )
        for index, node in enumerate(nodes)
    ]


def plan_kv_bytes(wanted: int, available: int, model_bytes: int, num_workers: int) -> int:
    """Return the KV bytes of each worker: ``wanted``, or half of what the model leaves free, at most 2 GiB.

    ``available`` and ``model_bytes`` in bytes; the model's pages are shared by all workers. Raises SettingsError if it does not fit.
    """
    free = available - model_bytes - _RESERVED_BYTES
    if wanted:
        missing = wanted * num_workers - free
        if missing > 0:
            raise SettingsError(
                f"kv_cache_bytes: {wanted} bytes for each of {num_workers} workers do not fit: {available} bytes are available, "
                f"{model_bytes} of them for the model and {_RESERVED_BYTES} kept free; {missing} bytes are missing"
            )
        return wanted
    share = min(DEFAULT_KV_BYTES, free // 2 // num_workers)
    if share < _SMALLEST_KV_BYTES:
        missing = _SMALLEST_KV_BYTES * 2 * num_workers - free
        raise SettingsError(
            f"not enough memory for the KV cache: {available} bytes are available, {model_bytes} of them for the model and "
            f"{_RESERVED_BYTES} kept free; {missing} bytes are missing. Free some memory, or set kv_cache_bytes."
        )
    return share

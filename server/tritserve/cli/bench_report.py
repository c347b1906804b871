"""The arithmetic of ``tritserve bench``: measured seconds and the machine's limits become rows. Pure.

A step of B rows with O outputs does ``2 * (ternary weights * B + 2 * head weights * P)`` int8 operations, P counting an output once for
the head's high plane and once more if it read the low plane whole (int16 by int8: two products a weight). It reads the ternary
body once, of the head what the session says it read, and the KV of every sequence. Its two shares are operations per second
against the int8 peak of the instruction set and bytes per second against the plain sequential read of the mapped
file, both measured in the same run with as many threads; the larger one names the limit.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Shape:
    """What one step costs, from the model."""

    ternary_weights: int
    head_weights: int
    body_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the output head really did, per output row: bytes read, planes read whole (1 to 2), candidates finished from the low plane,
    and the share of rows whose low plane was read whole because the bounds did not decide."""

    bytes_per_row: float
    planes_per_row: float
    finished_per_row: float
    undecided_share: float


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to measure: ``batch`` sequences at ``context`` tokens, or the prefill of one prompt of ``context`` tokens."""

    work: Literal["decode", "prefill"]
    batch: int
    context: int
    threads: int
    isa: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed stretch of steps: tokens computed, wall seconds, CPU seconds of the process."""

    num_tokens: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Peak:
    """The machine's limits with the threads of the row: bytes read and int8 operations per second."""

    read_bytes_per_second: float
    int8_ops_per_second: float


@dataclass(frozen=True, slots=True)
class Zeros:
    """What squared ReLU zeroed: shares of the inputs of ``down`` and of the gates, and the bytes of a step not read for it."""

    inputs: float
    gates: float
    bytes_per_step: float


def row(
    work: Work, samples: list[Sample], num_steps: int, shape: Shape, peak: Peak, zeros: Zeros, head: Head
) -> dict[str, object]:
    """Return one row of the report. ``num_steps``: steps of all samples together. Operations count as if nothing were skipped."""
    rates = [sample.num_tokens / sample.seconds for sample in samples]
    num_tokens = sum(sample.num_tokens for sample in samples)
    num_outputs = num_tokens if work.work == "decode" else len(samples)
    context_reads = num_tokens * work.context if work.work == "decode" else num_tokens * work.context // 2
    head_bytes = num_outputs * head.bytes_per_row
    num_bytes = (
        num_steps * (shape.body_bytes - zeros.bytes_per_step) + head_bytes + context_reads * shape.kv_bytes_per_token
    )
    num_ops = 2 * (shape.ternary_weights * num_tokens + 2 * shape.head_weights * head.planes_per_row * num_outputs)
    median = statistics.median(rates)
    memory = median * num_bytes / num_tokens / peak.read_bytes_per_second
    compute = median * num_ops / num_tokens / peak.int8_ops_per_second
    return {
        **asdict(work),
        "tokens_per_second": spread(rates),
        "bytes_per_token": round(num_bytes / num_tokens),
        "head_bytes_per_token": round(head_bytes / num_tokens),
        "head_finished_per_row": _short(head.finished_per_row),
        "head_undecided_share": round(head.undecided_share, 4),
        "ops_per_token": round(num_ops / num_tokens),
        "zero_share": round(zeros.inputs, 4),
        "closed_gates_share": round(zeros.gates, 4),
        "cpu_seconds_per_1000_tokens": _short(1000 * sum(sample.cpu_seconds for sample in samples) / num_tokens),
        "memory_share": round(memory, 4),
        "compute_share": round(compute, 4),
        "share_of_limit": round(max(memory, compute), 4),
        "limit": "memory" if memory >= compute else "compute",
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and largest, in five digits."""
    return {"median": _short(statistics.median(values)), "min": _short(min(values)), "max": _short(max(values))}


def _short(value: float) -> float:
    return float(f"{value:.5g}")

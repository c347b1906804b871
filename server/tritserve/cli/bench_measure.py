"""What ``tritserve bench`` measures: the machine's limits, the ternary body alone, and whole model steps."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritserve.cli.bench_report import Peak, Sample, Shape, Work, row
from tritserve.native.lib import BLOCK_TOKENS, KvPool, Model, Session, isa_supported, measure_int8, measure_read
from tritserve.native.types import Isa, Output, Sampling, StepBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tritserve.model.packed_file import PackedModel

READ_BYTES = 512 * 1024 * 1024
MAX_STEP_ROWS = 256
NUM_WINDOWS = 8
PREFILL_REPEATS = 3
WARM_UP_STEPS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure of a model."""

    isa: Isa
    threads: int
    prefill_tokens: int
    decode_tokens: int
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine's limits by number of threads: bytes read, and int8 operations by instruction set, per second."""

    read: dict[int, float]
    int8: dict[str, dict[int, float]]

    def peak(self, isa: Isa, threads: int) -> Peak:
        """Return the limits for one instruction set and number of threads."""
        return Peak(self.read[threads], self.int8[isa.name.lower()][threads])


def supported_isas() -> list[Isa]:
    """Return the instruction sets that this CPU, operating system and build can run."""
    return [isa for isa in Isa if isa is not Isa.AUTO and isa_supported(isa)]


def measure_limits(threads: int, say: Callable[[str], None]) -> Limits:
    """Measure read bandwidth and int8 peaks with one thread and with ``threads``. Raises NativeError."""
    counts = sorted({1, threads})
    say("read bandwidth")
    read = {n: measure_read(READ_BYTES, n_threads=n) for n in counts}
    say("int8 multiply-adds")
    int8 = {isa.name.lower(): {n: measure_int8(isa, n_threads=n) for n in counts} for isa in supported_isas()}
    return Limits(read, int8)


def measure_body(packed: PackedModel, plan: Plan, limits: Limits, say: Callable[[str], None]) -> dict[str, object]:
    """Time every ternary linear once for one row, with one thread and with all, against the read bandwidth."""
    found: dict[str, object] = {}
    for threads in sorted({1, plan.threads}):
        say(f"body GEMV, {threads} thread(s)")
        with open_session(packed, plan.isa, threads, num_blocks=1, max_seqs=1) as (model, session):
            seconds = session.time_linears(1, 3)
            rate = model.body_bytes / seconds
            found[str(threads)] = {
                "seconds": seconds,
                "bytes_per_second": rate,
                "share_of_read": round(rate / limits.read[threads], 4),
            }
    return found


def measure_steps(
    packed: PackedModel, plan: Plan, limits: Limits, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Measure prefill and, for each batch size, decode behind a context of the prefill's length."""
    context = plan.prefill_tokens
    tokens_each = context + WARM_UP_STEPS + plan.decode_tokens
    blocks_each = -(-tokens_each // BLOCK_TOKENS)
    most = max(plan.batches)
    rows = []
    with open_session(packed, plan.isa, plan.threads, num_blocks=most * blocks_each, max_seqs=most) as (model, session):
        tables = np.arange(most * blocks_each, dtype=np.int32).reshape(most, blocks_each)
        shape, peak = shape_of(packed, model), limits.peak(model.isa, plan.threads)
        rng = np.random.default_rng(1)
        isa = model.isa.name.lower()
        say(f"prefill of {context} tokens")
        prompt = rng.integers(0, model.vocab, context, dtype=np.int32)
        before = session.stats()
        samples = [_prefill(session, prompt, tables[:1]) for _ in range(PREFILL_REPEATS)]
        num_steps = PREFILL_REPEATS * -(-context // MAX_STEP_ROWS)
        work = Work("prefill", 1, context, plan.threads, isa)
        rows.append(
            row(work, samples, num_steps, shape, peak, _zero_share(session, before.down_inputs, before.down_zeros))
        )
        for batch in plan.batches:
            say(f"decode of {plan.decode_tokens} tokens, batch {batch}")
            before = session.stats()
            first = rng.integers(0, model.vocab, batch, dtype=np.int32)
            samples = _decode(session, first, tables[:batch], context, plan.decode_tokens)
            work = Work("decode", batch, context, plan.threads, isa)
            share = _zero_share(session, before.down_inputs, before.down_zeros)
            rows.append(row(work, samples, plan.decode_tokens, shape, peak, share))
    return rows


@contextmanager
def open_session(
    packed: PackedModel, isa: Isa, threads: int, *, num_blocks: int, max_seqs: int
) -> Iterator[tuple[Model, Session]]:
    """Yield the model and a session over a KV pool of its own. Raises NativeError."""
    header = packed.header
    fd = os.memfd_create("tritserve-bench", os.MFD_CLOEXEC)
    try:
        with Model(packed.fd, header.architecture, header.tensors, isa=isa, n_threads=threads) as model:
            os.ftruncate(fd, model.kv_region_bytes(num_blocks))
            rows = max(MAX_STEP_ROWS, max_seqs)
            with (
                KvPool(model, fd, num_blocks) as kv,
                Session(
                    model, kv, n_threads=threads, max_rows=rows, max_seqs=max_seqs, max_outputs=max_seqs
                ) as session,
            ):
                yield model, session
    finally:
        os.close(fd)


def shape_of(packed: PackedModel, model: Model) -> Shape:
    """Return what a step of this model costs."""
    arch = packed.header.architecture
    ternary = sum(tensor.n * tensor.k for tensor in packed.header.tensors if tensor.kind <= 6)
    per_token = (model.kv_region_bytes(65) - model.kv_region_bytes(1)) // (64 * BLOCK_TOKENS)
    return Shape(ternary, arch.vocab * arch.hidden, model.body_bytes, model.head_bytes, per_token)


def _prefill(session: Session, prompt: NDArray[np.int32], table: NDArray[np.int32]) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(prompt), MAX_STEP_ROWS):
        chunk = prompt[start : start + MAX_STEP_ROWS]
        end = start + len(chunk)
        outputs = [Output(row=len(chunk) - 1, sampling=Sampling(position=end))] if end == len(prompt) else []
        session.step(
            StepBatch(
                token_ids=chunk,
                cu_rows=np.array([0, len(chunk)], dtype=np.int32),
                start_pos=np.array([start], dtype=np.int32),
                block_tables=table,
                outputs=outputs,
            )
        )
    return Sample(len(prompt), time.perf_counter() - wall, time.process_time() - cpu)


def _decode(
    session: Session, tokens: NDArray[np.int32], tables: NDArray[np.int32], context: int, num_steps: int
) -> list[Sample]:
    batch = len(tokens)
    cu_rows = np.arange(batch + 1, dtype=np.int32)
    position = context

    def step(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        outputs = [Output(row=index, sampling=Sampling(position=position + 1)) for index in range(batch)]
        starts = np.full(batch, position, dtype=np.int32)
        made = StepBatch(token_ids=tokens, cu_rows=cu_rows, start_pos=starts, block_tables=tables, outputs=outputs)
        return np.array([choice.token for choice in session.step(made)], dtype=np.int32)

    for _ in range(WARM_UP_STEPS):
        tokens = step(tokens)
        position += 1
    samples = []
    windows = min(NUM_WINDOWS, num_steps)
    for window in range(windows):
        steps = num_steps * (window + 1) // windows - num_steps * window // windows
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            tokens = step(tokens)
            position += 1
        samples.append(Sample(batch * steps, time.perf_counter() - wall, time.process_time() - cpu))
    return samples


def _zero_share(session: Session, inputs_before: int, zeros_before: int) -> float:
    after = session.stats()
    inputs = after.down_inputs - inputs_before
    return (after.down_zeros - zeros_before) / inputs if inputs else 0.0

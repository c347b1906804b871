"""What ``tritserve bench`` measures: the ternary body alone, and whole model steps, each between two looks at the machine's limits."""

from __future__ import annotations

import os
import statistics
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritserve.cli.bench_limits import middle
from tritserve.cli.bench_report import Head, Sample, Shape, Work, Zeros, row, spread
from tritserve.cli.bench_steps import MAX_STEP_ROWS, WARM_UP_STEPS, decode_windows, prefill_prompt
from tritserve.errors import SettingsError
from tritserve.kv_dtype import KvDtype
from tritserve.model.header import TERNARY_KINDS
from tritserve.native.lib import BLOCK_TOKENS, KvPool, Model, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tritserve.cli.bench_limits import Limits
    from tritserve.isa import Isa
    from tritserve.model.packed_file import PackedModel
    from tritserve.native.types import SessionStats

PREFILL_REPEATS = 3
BODY_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure of a model. ``kv_limit_bytes`` bounds the KV memory of the largest batch."""

    isa: Isa
    threads: int
    prefill_tokens: int
    decode_tokens: int
    batches: tuple[int, ...]
    kv_limit_bytes: int
    skip_zeros: bool = True
    kv_dtype: KvDtype = KvDtype.INT16

    @property
    def tokens_each(self) -> int:
        """Context of one sequence at its end."""
        return self.prefill_tokens + WARM_UP_STEPS + self.decode_tokens


def measure_body(packed: PackedModel, plan: Plan, limits: Limits, say: Callable[[str], None]) -> dict[str, object]:
    """Time every ternary linear once for one row, with one thread and with all, against the read bandwidth beside it."""
    found: dict[str, object] = {}
    for threads in sorted({1, plan.threads}):
        say(f"body GEMV, {threads} thread{'s' * (threads > 1)}")
        with open_session(packed, plan.isa, threads, num_blocks=1, max_seqs=1) as (model, session):
            rates, shares = [], []
            for _ in range(BODY_ROUNDS):
                read = limits.sample(model.isa, threads).read_bytes_per_second
                rates.append(model.body_bytes / session.time_linears(1, 2))
                shares.append(rates[-1] / read)
            found[str(threads)] = {
                "bytes": model.body_bytes,
                "bytes_per_second": spread(rates),
                "share_of_read": round(statistics.median(shares), 4),
            }
    return found


def measure_steps(
    packed: PackedModel, plan: Plan, limits: Limits, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Measure prefill and, for each batch size, decode behind a context of the prefill's length.

    Raises SettingsError if that does not fit the model's context or the memory.
    """
    context, most = plan.prefill_tokens, max(plan.batches)
    if plan.tokens_each > packed.header.architecture.max_positions:
        raise SettingsError(
            f"--prefill {context} and --decode {plan.decode_tokens} need {plan.tokens_each} positions (with {WARM_UP_STEPS} to warm "
            f"up), but this model has {packed.header.architecture.max_positions}"
        )
    blocks_each = -(-plan.tokens_each // BLOCK_TOKENS)
    rows = []
    with open_session(
        packed,
        plan.isa,
        plan.threads,
        num_blocks=most * blocks_each,
        max_seqs=most,
        kv_limit_bytes=plan.kv_limit_bytes,
        skip_zeros=plan.skip_zeros,
        kv_dtype=plan.kv_dtype,
    ) as (model, session):
        tables = np.arange(most * blocks_each, dtype=np.int32).reshape(most, blocks_each)
        shape, isa = shape_of(packed, model, plan.kv_dtype), model.isa
        rng = np.random.default_rng(1)

        def measure(work: Work, num_steps: int, samples: Iterator[Sample]) -> dict[str, object]:
            before = session.stats()
            peaks, taken = [limits.sample(isa, plan.threads)], []
            for sample in samples:
                taken.append(sample)
                peaks.append(limits.sample(isa, plan.threads))
            after = session.stats()
            return row(work, taken, num_steps, shape, middle(peaks), _zeros(before, after), _head(before, after))

        say(f"prefill of {context} tokens")
        prompt = rng.integers(0, model.vocab, context, dtype=np.int32)
        num_steps = PREFILL_REPEATS * -(-context // MAX_STEP_ROWS)
        work = Work("prefill", 1, context, plan.threads, isa.label)
        prefills = (prefill_prompt(session, prompt, tables[:1]) for _ in range(PREFILL_REPEATS))
        rows.append(measure(work, num_steps, prefills))
        for batch in plan.batches:
            say(f"decode of {plan.decode_tokens} tokens, batch {batch}")
            first = rng.integers(0, model.vocab, batch, dtype=np.int32)
            work = Work("decode", batch, context, plan.threads, isa.label)
            windows = decode_windows(session, first, tables[:batch], context, plan.decode_tokens)
            rows.append(measure(work, plan.decode_tokens, windows))
    return rows


@contextmanager
def open_session(
    packed: PackedModel,
    isa: Isa,
    threads: int,
    *,
    num_blocks: int,
    max_seqs: int,
    kv_limit_bytes: int | None = None,
    skip_zeros: bool = True,
    kv_dtype: KvDtype = KvDtype.INT16,
) -> Iterator[tuple[Model, Session]]:
    """Yield the model and a session over a KV pool of its own. Raises NativeError, SettingsError for too little memory."""
    header = packed.header
    fd = os.memfd_create("tritserve-bench", os.MFD_CLOEXEC)
    try:
        with Model(packed.fd, header.architecture, header.tensors, isa=isa, n_threads=threads) as model:
            kv_bytes = model.kv_region_bytes(num_blocks, kv_dtype)
            if kv_limit_bytes is not None and kv_bytes > kv_limit_bytes:
                raise SettingsError(
                    f"the KV cache of {max_seqs} sequences needs {kv_bytes:,} bytes, but {kv_limit_bytes:,} are available: "
                    "choose a smaller --batch, --prefill or --decode"
                )
            os.ftruncate(fd, kv_bytes)
            rows = max(MAX_STEP_ROWS, max_seqs)
            with (
                KvPool(model, fd, num_blocks, dtype=kv_dtype) as kv,
                Session(
                    model,
                    kv,
                    n_threads=threads,
                    max_rows=rows,
                    max_seqs=max_seqs,
                    max_outputs=max_seqs,
                    skip_zeros=skip_zeros,
                ) as session,
            ):
                yield model, session
    finally:
        os.close(fd)


def shape_of(packed: PackedModel, model: Model, kv_dtype: KvDtype = KvDtype.INT16) -> Shape:
    """Return what a step of this model costs."""
    arch = packed.header.architecture
    ternary = sum(tensor.n * tensor.k for tensor in packed.header.tensors if tensor.kind in TERNARY_KINDS)
    per_token = (model.kv_region_bytes(65, kv_dtype) - model.kv_region_bytes(1, kv_dtype)) // (64 * BLOCK_TOKENS)
    return Shape(ternary, arch.vocab * arch.hidden, model.body_bytes, per_token)


def _zeros(before: SessionStats, after: SessionStats) -> Zeros:
    steps, inputs, gates = (getattr(after, name) - getattr(before, name) for name in ("steps", "down_inputs", "gates"))
    return Zeros(
        inputs=(after.down_zeros - before.down_zeros) / inputs if inputs else 0.0,
        gates=(after.gates_closed - before.gates_closed) / gates if gates else 0.0,
        bytes_per_step=(after.bytes_skipped - before.bytes_skipped) / steps if steps else 0.0,
    )


def _head(before: SessionStats, after: SessionStats) -> Head:
    rows = after.head_rows - before.head_rows
    screened = after.screened_rows - before.screened_rows
    undecided = after.undecided_rows - before.undecided_rows
    finished = after.finished_panels - before.finished_panels
    return Head(
        bytes_per_row=(after.head_bytes - before.head_bytes) / rows,
        planes_per_row=(2 * rows - screened + undecided) / rows,
        finished_per_row=finished / max(screened, 1),
        undecided_share=undecided / max(screened, 1),
    )

"""What ``tritserve bench`` times: the prefill of a prompt, and windows of decode steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from tritserve.cli.bench_report import Sample
from tritserve.native.types import NO_LOGPROBS, Output, Sampling, StepBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tritserve.native.lib import Session

MAX_STEP_ROWS = 256
NUM_WINDOWS = 8
WARM_UP_STEPS = 4


def prefill_prompt(session: Session, prompt: NDArray[np.int32], table: NDArray[np.int32]) -> Sample:
    """Compute a prompt (num_tokens) int32 into the blocks of its table (1, num_blocks), logits of its last token."""
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(prompt), MAX_STEP_ROWS):
        chunk = prompt[start : start + MAX_STEP_ROWS]
        end = start + len(chunk)
        outputs = (
            [Output(row=len(chunk) - 1, n_top=NO_LOGPROBS, sampling=Sampling(position=end))]
            if end == len(prompt)
            else []
        )
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


def decode_windows(
    session: Session,
    tokens: NDArray[np.int32],
    tables: NDArray[np.int32],
    context: int,
    num_steps: int,
    num_windows: int = NUM_WINDOWS,
) -> Iterator[Sample]:
    """Yield one sample per window of steps; whatever the caller does in between is not in it. The first comes after a warm-up.

    tokens (num_seqs) int32: the first of each sequence, at position ``context``; tables (num_seqs, num_blocks) int32.
    """
    batch = len(tokens)
    cu_rows = np.arange(batch + 1, dtype=np.int32)
    position = context

    def step(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        outputs = [
            Output(row=index, n_top=NO_LOGPROBS, sampling=Sampling(position=position + 1)) for index in range(batch)
        ]
        starts = np.full(batch, position, dtype=np.int32)
        made = StepBatch(token_ids=tokens, cu_rows=cu_rows, start_pos=starts, block_tables=tables, outputs=outputs)
        return np.array([choice.token for choice in session.step(made)], dtype=np.int32)

    for _ in range(WARM_UP_STEPS):
        tokens = step(tokens)
        position += 1
    windows = min(num_windows, num_steps)
    for window in range(windows):
        steps = num_steps * (window + 1) // windows - num_steps * window // windows
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            tokens = step(tokens)
            position += 1
        yield Sample(batch * steps, time.perf_counter() - wall, time.process_time() - cpu)

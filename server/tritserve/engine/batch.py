"""The ragged batch of one step as flat arrays, the shape of ``trit_batch`` in trit.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritserve.engine.sampling import SamplerInputs
    from tritserve.engine.scheduler import Rows, Schedule
    from tritserve.engine.sequence import Sequence

CHOOSE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """A row whose logits are wanted. ``target`` >= 0: score that prompt token; CHOOSE: sample the token at index ``len(history)``.

    ``history`` (n,) int32 is a view of the sequence's tokens so far, prompt first: no copy.
    """

    sequence: Sequence
    sampler: SamplerInputs
    row: int
    target: int
    num_top: int
    history: NDArray[np.int32]
    suppress: bool


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """All int32: ``token_ids`` (rows,), ``cu_rows`` (sequences + 1,), ``start_pos`` (sequences,), ``block_tables``
    (sequences, columns) C-contiguous, block of positions 16 j .. 16 j + 15 in column j; ``outputs`` rows ascending."""

    token_ids: NDArray[np.int32]
    cu_rows: NDArray[np.int32]
    start_pos: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    outputs: list[Output]


def build_batch(schedule: Schedule, samplers: dict[int, SamplerInputs]) -> Batch:
    """Lay out a schedule; ``samplers`` by sequence id."""
    num_sequences = len(schedule.rows)
    token_ids = np.empty(schedule.num_rows, np.int32)
    cu_rows = np.zeros(num_sequences + 1, np.int32)
    start_pos = np.empty(num_sequences, np.int32)
    # Columns past a sequence's own blocks stay 0: valid, and never read.
    columns = max(len(rows.sequence.blocks) for rows in schedule.rows)
    block_tables = np.zeros((num_sequences, columns), np.int32)
    outputs: list[Output] = []
    first_row = 0
    for index, rows in enumerate(schedule.rows):
        sequence, end_row = rows.sequence, first_row + rows.num_rows
        start = sequence.num_computed
        token_ids[first_row:end_row] = sequence.tokens.view(start, start + rows.num_rows)
        cu_rows[index + 1] = end_row
        start_pos[index] = start
        block_tables[index, : len(sequence.blocks)] = sequence.block_table.view()
        outputs += _outputs(rows, first_row, samplers[sequence.seq_id])
        first_row = end_row
    return Batch(token_ids, cu_rows, start_pos, block_tables, outputs)


def _outputs(rows: Rows, first_row: int, sampler: SamplerInputs) -> list[Output]:
    sequence, submit = rows.sequence, rows.sequence.submit
    start, end = sequence.num_computed, sequence.num_computed + rows.num_rows
    scored = range(max(start, sequence.num_scored), min(end, sequence.num_to_score))
    outputs = [
        Output(
            sequence=sequence,
            sampler=sampler,
            row=first_row + position - start,
            target=sequence.tokens[position + 1],
            num_top=submit.prompt_logprobs,
            history=sequence.tokens.view(0, position + 1),
            suppress=False,
        )
        for position in scored
    ]
    if sequence.chooses and end == sequence.num_tokens:
        outputs.append(
            Output(
                sequence=sequence,
                sampler=sampler,
                row=first_row + rows.num_rows - 1,
                target=CHOOSE,
                num_top=submit.sampling.num_top_logprobs,
                history=sequence.tokens.view(),
                suppress=sequence.num_completion < submit.min_tokens,
            )
        )
    return outputs

"""The seam between the engine and what computes: tests put a deterministic model here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tritserve.engine.batch import Batch
    from tritserve.protocol import KernelTime
    from tritserve.vocabulary import Vocabulary

NONFINITE_TOKEN = -1
"""TRIT_TOKEN_NONFINITE: a logit of the row is NaN or infinite."""
NO_TOKEN = -2
"""TRIT_TOKEN_NONE: every id was masked or suppressed."""


class Choice(NamedTuple):
    """What one output row gave: the chosen (or scored) id or a negative code, its log-probability, the most likely ids."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner is: model dimensions, KV pool, and the kernels it uses."""

    vocab: int
    max_positions: int
    num_blocks: int
    block_bytes: int
    isa: str
    kernels: str
    num_threads: int
    kernel_times: tuple[KernelTime, ...] = ()


class HeadCounts(NamedTuple):
    """Since the runner was made: rows chosen from the output head's high plane, of them those that then read the low plane whole, and
    candidates looked up in the low plane one by one."""

    screened: int
    undecided: int
    finished: int


class ModelRunner(Protocol):
    """One model with its KV pool. Not thread-safe; ``step`` blocks for the whole model step."""

    @property
    def info(self) -> RunnerInfo: ...

    def step(self, batch: Batch) -> list[Choice]:
        """Compute every row, write its K and V, return one choice per output, in order.

        Raises NativeError if the call was refused; then nothing is known about the blocks the rows were written to.
        """
        ...

    def head_counts(self) -> HeadCounts:
        """Return the counters of the output head."""
        ...

    def commit(self, block: int, digest: bytes) -> None:
        """Seal a full block under its name, so that a later process can adopt it."""
        ...

    def invalidate(self, block: int) -> None:
        """Withdraw a block's seal; precedes the first write to it."""
        ...

    def surviving_blocks(self) -> dict[int, bytes]:
        """Verify what an earlier process left and return the whole blocks with their names."""
        ...

    def self_test(self, block: int) -> None:
        """Replay the model's known answer in a free block. Raises ModelFileError if it differs."""
        ...

    def read_vocabulary(self) -> Vocabulary:
        """Return what the ids stand for, as many as ``info.vocab``; called in another thread, once. Raises ModelFileError."""
        ...

    def close(self) -> None: ...

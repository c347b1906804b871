"""What crosses into libtrit, as plain Python: frozen dataclasses over flat arrays. See native/include/trit/trit.h for meanings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TOKEN_NONFINITE = -1
TOKEN_NONE = -2
NO_LOGPROBS = -1
"""As ``n_top``: neither the token's own log-probability nor others, so that the head's low plane need not be read whole."""


@dataclass(frozen=True, slots=True)
class ReadPattern:
    """How memory is read to measure it: streams that each thread reads in turn, how far ahead each is prefetched, in which pages."""

    streams: int = 1
    prefetch_bytes: int = 0
    huge_pages: bool = False


SEQUENTIAL = ReadPattern()


class ArchLike(Protocol):
    """Anything with the fields of ``trit_arch``: ``Arch``, or the packed file's ``Architecture``."""

    @property
    def hidden(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def activation(self) -> int: ...
    @property
    def sub_norms(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...


class TensorLike(Protocol):
    """Anything with the fields of ``trit_tensor``: ``TensorEntry``, or the packed file's ``Tensor``."""

    @property
    def kind(self) -> int: ...
    @property
    def layer(self) -> int: ...
    @property
    def layout(self) -> int: ...
    @property
    def layout_version(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def scale(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """Dimensions of a model."""

    hidden: int
    intermediate: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    activation: int
    sub_norms: bool
    norm_eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One row of a packed file's tensor table."""

    kind: int
    layer: int
    layout: int
    layout_version: int
    n: int
    k: int
    offset: int
    bytes: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What calibration measured: the best of a few calls of one kernel. ``chosen``: it serves ``op``."""

    op: str
    kernel: str
    seconds: float
    chosen: bool


def _no_ids() -> NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)


def _no_values() -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampling:
    """How one token is chosen. The defaults are greedy without penalties.

    ``history`` (n) int32: tokens so far, prompt first, ``n_prompt`` of them prompt; read only for penalties. ``bias_ids`` (b)
    int32 and ``bias_values`` (b) float32; ``suppressed`` int32. ``mask`` (ceil(vocab / 32)) uint32: bit id % 32 of word id / 32 allows
    an id; it is read once ``mask_ready`` (1) int32 is non-zero, None meaning at once.
    """

    seed: int = 0
    position: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    history: NDArray[np.int32] = field(default_factory=_no_ids)
    n_prompt: int = 0
    bias_ids: NDArray[np.int32] = field(default_factory=_no_ids)
    bias_values: NDArray[np.float32] = field(default_factory=_no_values)
    suppressed: NDArray[np.int32] = field(default_factory=_no_ids)
    mask: NDArray[np.uint32] | None = None
    mask_ready: NDArray[np.int32] | None = None


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Output:
    """A row whose logits are wanted: score ``target`` if it is an id, else choose by ``sampling``. ``n_top`` may be NO_LOGPROBS."""

    row: int
    target: int = -1
    n_top: int = 0
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer for one output: a token id, or TOKEN_NONFINITE or TOKEN_NONE. ``logprob`` is 0 if none were wanted. ``top_*`` descend."""

    token: int
    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepBatch:
    """A ragged batch, all int32: ``token_ids`` (rows); ``cu_rows`` (seqs + 1): sequence s owns rows cu_rows[s] to cu_rows[s + 1];
    ``start_pos`` (seqs): position of its first row; ``block_tables`` (seqs, columns): block of positions 16 j to 16 j + 15.
    ``outputs``: rows ascending, a row may appear more than once."""

    token_ids: NDArray[np.int32]
    cu_rows: NDArray[np.int32]
    start_pos: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    outputs: Sequence[Output]


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Counters of a session since it was created.

    ``gates_closed`` of the ``gates`` were zero or below, ``down_zeros`` of the ``down_inputs`` zero; ``bytes_skipped`` of the ternary body
    were not read for it. ``head_rows``: rows with outputs; of them ``screened_rows`` by the head's high plane, of those ``undecided_rows``
    read the low plane whole; ``finished_panels``: candidates finished from it; ``head_bytes``: read of both.
    """

    steps: int
    rows: int
    down_inputs: int
    down_zeros: int
    gates: int
    gates_closed: int
    bytes_skipped: int
    head_rows: int
    screened_rows: int
    undecided_rows: int
    finished_panels: int
    head_bytes: int

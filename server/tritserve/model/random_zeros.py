"""Random weights whose squared ReLU closes as many gates as the trained demo model's, for benchmarks of skipping.

With plain random codes half of the gates are zero or below, each at random, and 64 to 70 % of the inputs of ``down``. A trained model has a
bias against most of its channels, and some channels weigh far more than others. Both are built from ordinary weights:

* The first 64 channels of the residual stream hold the same positive value for every token: so says the embedding, and ``o`` and ``down``
  have zero weights there (and small scales, or what they add would drown it).
* A row of ``gate`` has k weights of one sign on these channels: its gate is shifted by k of their value, about a nineteenth of the
  standard deviation of the rest each. The shifts are drawn from a normal distribution (``SHIFT_MEAN``, ``SHIFT_SPREAD``, in
  standard deviations), which decides the share of closed gates.
* The weights of ``ffn_sub_norm`` are log-normal (``NORM_SPREAD``), which decides how many of the quantised inputs are zero.

The demo model closes 55 % of its gates over validation stories, and 79 % of the inputs of ``down`` are zero (docs/decisions/0013-skipping-zeros.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritserve.model.header import Activation, Architecture, Layout, TensorKind, TensorSpec
from tritserve.native.packing import pack_ternary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Draw = Callable[[int], NDArray[np.uint8]]
    """Gives that many random bytes: ternary codes, or one plane of the embedding."""

SHIFT_MEAN = -0.178
SHIFT_SPREAD = 1.0
NORM_SPREAD = 0.8
CHANNELS = 64
OUTPUT_SCALE = 0.02
"""Of ``o`` and ``down``, as a factor: what 60 sublayers add stays below the embedding."""
_ZERO_CODES = 0x55
_CONSTANT = 74
"""High byte of the constant channels: twice the root mean square of the others, which are uniform in [-64, 64)."""
_CODES_PER_DEVIATION = 37.8 / 2.0
"""Of the other channels' sum, 37.8 times their root mean square: 2,496 of 2B4T's inputs with four weights in seven not zero."""
_RUNS = 512


def fits(architecture: Architecture) -> bool:
    """Tell whether such weights can be drawn for these dimensions."""
    a = architecture
    return a.activation is Activation.RELU2 and a.hidden % 64 == 0 and a.hidden >= 256 and a.intermediate % 64 == 0


def chunks(spec: TensorSpec, draw: Draw, rng: np.random.Generator) -> Iterator[memoryview] | None:
    """Return the bytes of a tensor that is not drawn like any other, else None."""
    if spec.kind is TensorKind.GATE:
        return _gate(spec, draw, rng)
    if spec.kind is TensorKind.O:
        return _panels_without_first(spec, draw)
    if spec.kind is TensorKind.DOWN and spec.layout is Layout.T2_COLS:
        return _columns_without_first(spec, draw)
    return None


def embedding(spec: TensorSpec, draw: Draw) -> Iterator[memoryview]:
    """Yield both planes of the embedding; ``draw`` gives the bytes of the high plane first, then those of the low one."""
    panels, panel_bytes = (spec.n + 15) // 16, spec.k // 4 * 64
    for plane, constant in ((0, _CONSTANT), (1, 0)):
        for first in range(0, panels, _RUNS):
            count = min(_RUNS, panels - first)
            piece = draw(count * panel_bytes)
            if plane == 0:
                piece = np.right_shift(piece.view(np.int8), 1).view(np.uint8)
            piece = piece.reshape(count, panel_bytes)
            piece[:, : CHANNELS // 4 * 64] = constant
            if first + count == panels and spec.n % 16:  # rows beyond the vocabulary are zero
                piece[-1].reshape(-1, 16, 4)[:, spec.n % 16 :] = 0
            yield piece.data


def sub_norm(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the weights of an ``ffn_sub_norm``."""
    return np.exp(NORM_SPREAD * rng.standard_normal(n)).astype(np.float32)


def _gate(spec: TensorSpec, draw: Draw, rng: np.random.Generator) -> Iterator[memoryview]:
    shifts = rng.normal(SHIFT_MEAN, SHIFT_SPREAD, spec.n) * _CODES_PER_DEVIATION
    weights = np.clip(np.rint(shifts), -CHANNELS, CHANNELS).astype(np.int8)
    codes = (np.arange(CHANNELS) < np.abs(weights)[:, None]) * np.sign(weights)[:, None]
    heads = pack_ternary(codes.astype(np.int8)).reshape(spec.n // 64, -1)
    for head in heads:
        panel = draw(spec.k * 16)
        panel[: head.size] = head
        yield panel.data


def _panels_without_first(spec: TensorSpec, draw: Draw) -> Iterator[memoryview]:
    panel_bytes = (spec.k + 63) // 64 * 64 * 16
    yield np.full(panel_bytes, _ZERO_CODES, dtype=np.uint8).data
    for _ in range(spec.n // 64 - 1):
        panel = draw(panel_bytes)
        if spec.k % 64:
            panel.reshape(-1, 16, 4)[spec.k // 4 :] = _ZERO_CODES
        yield panel.data


def _columns_without_first(spec: TensorSpec, draw: Draw) -> Iterator[memoryview]:
    run_bytes = spec.n // 4
    for first in range(0, spec.k, _RUNS):
        count = min(_RUNS, spec.k - first)
        runs = draw(count * run_bytes).reshape(count, run_bytes)
        runs[:, :16] = _ZERO_CODES
        yield runs.data

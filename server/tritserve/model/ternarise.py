"""Master weights to ternary codes and one scale (The Era of 1-bit LLMs, Ma et al. 2024, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOOR = 1e-5


def ternarise(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Turn (n, k) float32 weights into (n, k) int8 codes in {-1, 0, 1} and the scale to multiply by.

    absmean: ``m = max(mean |w|, 1e-5)`` with the mean in float64; codes are ``w * (1 / m)`` rounded half to even and clamped; the scale is
    ``1 / (1 / m)`` in float32, as the reference divides. Weights that are ternary already (every magnitude 0 or a) keep their
    own scale a: their mean would be a times the share of nonzeros. Raises ValueError if a weight is not finite, or if
    each row is ternary with a scale of its own: one scale per tensor cannot hold that.
    """
    if not np.isfinite(weights).all():
        raise ValueError("a weight is not finite")
    magnitudes = np.abs(weights)
    largest = magnitudes.max(axis=1)
    mean = float(magnitudes.mean(dtype=np.float64))
    magnitudes[magnitudes == 0] = np.inf
    smallest = magnitudes.min(axis=1)
    used = largest > 0
    if used.any() and np.array_equal(largest[used], smallest[used]):
        scale = float(largest.max())
        if not (largest[used] == scale).all():
            raise ValueError("every row is ternary with a scale of its own, expected one scale per tensor")
        return np.sign(weights).astype(np.int8), scale
    inverse = np.float32(1.0) / np.float32(max(mean, _FLOOR))
    scaled = np.multiply(weights, inverse, out=magnitudes)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -1.0, 1.0, out=scaled)
    return scaled.astype(np.int8), float(np.float32(1.0) / inverse)

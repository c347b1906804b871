"""RoPE tables by plain IEEE operations: the same bits on every CPU and C library.

``angle = position * inv_freq`` in float32, as the reference computes it (RoFormer, Su et al. 2021, 3.2.2). ``inv_freq`` comes from
decimal arithmetic, correctly rounded at each of the reference's float32 steps. Sine and cosine are float64: Cody-Waite reduction by pi / 2 in
three parts, then the Taylor polynomials on [-pi/4, pi/4], one numpy operation at a time (an expression compiled as a
whole might be contracted to FMA). Their error is below 2^-50, so rounding to float32 is correct but for ties.
"""

from __future__ import annotations

import decimal
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MAX_ANGLE = 2.0**21
# pi / 2 in three parts: the first two have 33 bits, so that their products with n < 2^20 are exact (fdlibm, e_rem_pio2.c).
_PIO2_HIGH = 1.57079632673412561417e00
_PIO2_MIDDLE = 6.07710050630396597660e-11
_PIO2_LOW = 2.02226624879595063154e-21
_TWO_OVER_PI = 6.36619772367581382433e-01
_SIN = tuple((-1.0) ** i / d for i, d in enumerate((1, 6, 120, 5040, 362880, 39916800, 6227020800, 1307674368000)))
_COS = tuple(
    (-1.0) ** i / d for i, d in enumerate((1, 2, 24, 720, 40320, 3628800, 479001600, 87178291200, 20922789888000))
)


def rope_tables(max_positions: int, head_dim: int, theta: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin, each (max_positions, head_dim / 2) float32."""
    inv_freq = inverse_frequencies(head_dim, theta)
    positions = np.arange(max_positions, dtype=np.float32)
    angles = np.multiply(positions[:, None], inv_freq[None, :]).astype(np.float64)
    sin, cos = sin_cos(angles)
    return cos.astype(np.float32), sin.astype(np.float32)


def inverse_frequencies(head_dim: int, theta: float) -> NDArray[np.float32]:
    """Return ``1 / theta ** (2i / head_dim)``, (head_dim / 2) float32, each step rounded to float32."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    with decimal.localcontext() as context:
        context.prec = 40
        base = decimal.Decimal(theta)
        powers = [_to_float32(base ** decimal.Decimal(float(e))) for e in exponents]
    return np.float32(1.0) / np.array(powers, dtype=np.float32)


def sin_cos(angles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sine and cosine of angles in [0, 2^21]. Raises ValueError beyond."""
    if angles.size and not 0.0 <= angles.min() <= angles.max() <= _MAX_ANGLE:
        raise ValueError(f"angles reach {angles.max()}, expected 0 to {_MAX_ANGLE}")
    n = np.rint(np.multiply(angles, _TWO_OVER_PI))
    r = np.subtract(angles, np.multiply(n, _PIO2_HIGH))
    r = np.subtract(r, np.multiply(n, _PIO2_MIDDLE))
    r = np.subtract(r, np.multiply(n, _PIO2_LOW))
    z = np.multiply(r, r)
    sin, cos = np.multiply(_horner(_SIN, z), r), _horner(_COS, z)
    quadrant = n.astype(np.int64) & 3
    odd = (quadrant & 1).astype(bool)
    s, c = np.where(odd, cos, sin), np.where(odd, sin, cos)
    return np.where(quadrant & 2, -s, s), np.where((quadrant == 1) | (quadrant == 2), -c, c)


def _horner(coefficients: Sequence[float], z: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full_like(z, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = np.add(np.multiply(result, z), coefficient)
    return result


def _to_float32(value: decimal.Decimal) -> np.float32:
    # Twice rounded (decimal to float64 to float32), the same everywhere; off by an ulp only within 2^-29 of a float32 tie.
    return np.float32(float(value))

"""RoPE tables: accurate, and from operations that are the same everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from tritserve.model.rope import inverse_frequencies, rope_tables, sin_cos


def test_sine_and_cosine_agree_with_the_c_library() -> None:
    rng = np.random.default_rng(0)
    halves = np.arange(0, 2000) * (math.pi / 2)
    angles = np.concatenate([rng.uniform(0, 4, 3000), rng.uniform(0, 2.0**21, 3000), halves, [0.0, 2.0**21]])
    sin, cos = sin_cos(angles)
    assert np.abs(sin - [math.sin(a) for a in angles]).max() < 2.0**-51
    assert np.abs(cos - [math.cos(a) for a in angles]).max() < 2.0**-51


@pytest.mark.parametrize(("head_dim", "theta"), [(64, 1e4), (96, 1e4), (100, 5e5), (128, 5e5), (256, 1_000_042.0)])
def test_tables_are_what_float32_angles_give(head_dim: int, theta: float) -> None:
    cos, sin = rope_tables(300, head_dim, theta)
    assert cos.shape == sin.shape == (300, head_dim // 2)
    inv_freq = inverse_frequencies(head_dim, theta)
    exact = [theta ** -(2 * i / head_dim) for i in range(head_dim // 2)]
    assert np.abs(inv_freq / exact - 1).max() < 1e-6  # float32 exponents, as the reference has them
    for position in (0, 1, 17, 299):
        angles = [float(np.float32(position) * f) for f in inv_freq]
        assert np.array_equal(cos[position], np.array([math.cos(a) for a in angles], dtype=np.float32))
        assert np.array_equal(sin[position], np.array([math.sin(a) for a in angles], dtype=np.float32))


def test_tables_have_the_same_bits_on_every_machine() -> None:
    cos, sin = rope_tables(4096, 128, 500_000.0)
    assert hashlib.sha256(cos.tobytes() + sin.tobytes()).hexdigest() == TABLES_2B4T


def test_angles_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="angles reach"):
        sin_cos(np.array([2.0**22]))


TABLES_2B4T = "527ebcb4d249d5c3fd0d2444db90087de5b306c134d756bbd3a971ea38c501e1"

"""Master weights to codes and scale."""

from __future__ import annotations

import numpy as np
import pytest

from tritserve.model.ternarise import ternarise


def test_absmean_rounds_half_to_even_and_clamps() -> None:
    # mean |w| is 1: w itself is what is rounded
    weights = np.array([[0.5, -0.5, 1.5, -1.5], [0.49, 0.51, 2.5, 0.5]], dtype=np.float32)
    assert np.abs(weights).mean() == 1.0
    codes, scale = ternarise(weights)
    assert codes.tolist() == [[0, 0, 1, -1], [0, 1, 1, 0]]
    assert scale == 1.0


def test_weights_that_are_ternary_already_keep_their_scale() -> None:
    codes = np.random.default_rng(0).integers(-1, 2, (32, 48), dtype=np.int8)
    got, scale = ternarise(codes.astype(np.float32) * np.float32(0.25))
    assert np.array_equal(got, codes)
    assert scale == 0.25  # the mean would be about 0.17


def test_a_zero_tensor_has_the_floor_as_scale() -> None:
    codes, scale = ternarise(np.zeros((4, 4), dtype=np.float32))
    assert not codes.any()
    assert scale == pytest.approx(1e-5)


def test_the_mean_is_accurate_for_many_weights() -> None:
    weights = np.full((2000, 2000), 1.0, dtype=np.float32)
    weights[:, ::2] = 1.0 + 2.0**-20  # a float32 accumulator would lose these
    _, scale = ternarise(weights)
    assert scale == pytest.approx(1.0 + 2.0**-21, rel=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    weights = np.ones((4, 4), dtype=np.float32)
    weights[2, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        ternarise(weights)


def test_a_scale_per_row_is_refused_not_averaged() -> None:
    codes = np.array([[1, -1, 0, 1], [0, 1, 1, -1]], dtype=np.float32)
    with pytest.raises(ValueError, match="scale of its own"):
        ternarise(codes * np.array([[0.5], [0.25]], dtype=np.float32))

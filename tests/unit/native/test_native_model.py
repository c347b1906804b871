"""The forward pass against the independent numpy reading of the model's description."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from number_formats import IntegerModel
from tiny_model import KINDS, SMALL, all_logits, make_tiny_model

from tritserve.isa import Isa
from tritserve.native.lib import isa_supported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritserve.native.types import Arch

ISAS = [isa for isa in Isa if isa >= 0 and isa_supported(isa)]
SHAPES = {
    "sub-norms, relu2": SMALL,
    "no sub-norms, silu": replace(SMALL, activation=1, sub_norms=False),
    "one kv head per head": replace(SMALL, n_kv_heads=4, head_dim=16),
    "one kv head": replace(SMALL, n_kv_heads=1, head_dim=32, n_layers=1),
}


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.label)
@pytest.mark.parametrize("arch", SHAPES.values(), ids=SHAPES.keys())
def test_logits_agree_with_the_numpy_oracle(arch: Arch, isa: Isa) -> None:
    tiny = make_tiny_model(arch)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, arch.vocab, 150).tolist()
    with tiny.session(isa=isa) as (session, _):
        got = all_logits(session, ids, range(10), arch.vocab)
    expected = tiny.numpy.logits(ids)
    # An int8 activation near a rounding boundary turns any tiny difference into a whole step, so the measure is the oracle's own
    # sensitivity: what a change of 1e-4 in its embedding does. Rows where nothing crossed a boundary agree far better.
    noise = rng.normal(1.0, 1e-4, tiny.numpy.embedding.shape)
    nudged = replace(tiny.numpy, embedding=(tiny.numpy.embedding * noise).astype(np.float32)).logits(ids)
    error, sensitivity = _row_errors(got, expected), _row_errors(nudged, expected)
    assert np.median(error) < 1.5 * np.median(sensitivity)
    assert error.max() < 2.0 * sensitivity.max()
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.97


def _row_errors(got: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.floating]:
    """Root mean square of each row's difference, relative to the spread of all."""
    return np.sqrt(((got - expected) ** 2).mean(axis=1)) / expected.std()


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.label)
@pytest.mark.parametrize("arch", SHAPES.values(), ids=SHAPES.keys())
def test_rows_without_a_rounding_flip_agree_with_the_documented_formats_to_float32(arch: Arch, isa: Isa) -> None:
    tiny = make_tiny_model(arch)
    ids = np.random.default_rng(1).integers(0, arch.vocab, 150).tolist()
    with tiny.session(isa=isa) as (session, _):
        got = all_logits(session, ids, range(10), arch.vocab)
    # With the same integers in attention and head the last float bits seldom tip an int8 over: a third of the rows at least
    assert np.quantile(_row_errors(got, IntegerModel.of(tiny.numpy).logits(ids)), 0.33) < 2e-7


def test_untied_head_is_used() -> None:
    tiny = make_tiny_model(tied=False)
    with tiny.session() as (session, _):
        got = all_logits(session, [3, 5, 8], range(1), SMALL.vocab)
    assert np.corrcoef(got.ravel(), tiny.numpy.logits([3, 5, 8]).ravel())[0, 1] > 0.999


def test_a_linear_equals_integer_arithmetic_exactly() -> None:
    tiny = make_tiny_model()
    rng = np.random.default_rng(3)
    with tiny.session() as (session, _):
        for name, kind in KINDS.items():
            linear = getattr(tiny.numpy.layers[1], name)
            x = rng.normal(0, 3, (5, linear.codes.shape[1])).astype(np.float32)
            x[2] = 0.0
            q, y = session.linear(kind, 1, x)
            a = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(1e-5))
            np.testing.assert_array_equal(q, np.rint(x * (np.float32(127) / a)))
            acc = q.astype(np.int32) @ linear.codes.T.astype(np.int32)
            np.testing.assert_array_equal(
                y, acc.astype(np.float32) * (np.float32(linear.scale) * (a / np.float32(127)))
            )


def test_the_worked_example_of_the_specification() -> None:
    """x and codes of the worked example: absmax 2.0, sum 73, known integers."""
    codes = [
        [1, -1, 0, 1],
        [0, 0, 1, -1],
        [-1, 1, 0, 0],
        [1, 1, 1, -1],
        [-1, 0, 0, 1],
        [0, -1, 1, 0],
        [1, 0, -1, -1],
        [0, 1, -1, 1],
    ]
    expected = [5.24409, -2.92913, -2.24409, -4.27559, 2.55118, 1.86614, -2.62205, 1.13386]
    from numpy_model import TernaryLinear, bit_linear

    y = bit_linear(TernaryLinear(np.array(codes, dtype=np.int8), 1.5), np.array([[0.3, -1.2, 0.05, 2.0]]))
    np.testing.assert_allclose(y[0], expected, atol=1e-5)

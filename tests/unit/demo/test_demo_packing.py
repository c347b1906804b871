"""Packed ternary codes, against the worked example of the format and the reverse operation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.demo.packing import pack_codes, unpack_codes

EXAMPLE = np.array(
    [
        [1, -1, 0, 1],
        [0, 0, 1, -1],
        [-1, 1, 0, 0],
        [1, 1, 1, -1],
        [-1, 0, 0, 1],
        [0, -1, 1, 0],
        [1, 0, -1, -1],
        [0, 1, -1, 1],
    ],
    dtype=np.int8,
)


def test_worked_example_packs_to_the_known_bytes() -> None:
    assert [row.tobytes().hex(" ") for row in pack_codes(EXAMPLE)] == ["82 58 15 26", "59 89 2a 90"]


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_unpacking_inverts_packing(quarter: int, width: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (4 * quarter, width), dtype=np.int8)
    np.testing.assert_array_equal(unpack_codes(pack_codes(codes)), codes)


def test_rows_that_do_not_fill_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        pack_codes(EXAMPLE[:6])


def test_codes_that_are_not_ternary_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        pack_codes(EXAMPLE * np.int8(2))

"""Packing and unpacking: inverse of each other, and of the checkpoint's own byte order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.demo.packing import pack_codes
from tritserve.errors import NativeError
from tritserve.native.packing import (
    HEAD_PANEL,
    LAYOUT_F32,
    LAYOUT_I8,
    LAYOUT_I16_P16G4,
    LAYOUT_T2_P64G4,
    LAYOUT_T5_P64G4,
    layout_bytes,
    pack_dense,
    pack_head,
    pack_ternary,
    unpack_dense,
    unpack_hf,
    unpack_ternary,
)


@given(n=st.integers(1, 150), k=st.integers(1, 150), seed=st.integers(0, 2**32))
def test_unpacking_inverts_packing(n: int, k: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (n, k)).astype(np.int8)
    np.testing.assert_array_equal(unpack_ternary(pack_ternary(codes), n, k), codes)


@given(quarter=st.integers(1, 30), k=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_hugging_face_bytes_unpack_to_the_codes(quarter: int, k: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (4 * quarter, k)).astype(np.int8)
    np.testing.assert_array_equal(unpack_hf(pack_codes(codes), 4 * quarter), codes)


def test_layout_bytes_are_the_padded_sizes() -> None:
    assert layout_bytes(LAYOUT_F32, 3, 5) == 60
    assert layout_bytes(LAYOUT_I8, 3, 5) == 15
    assert layout_bytes(LAYOUT_T2_P64G4, 65, 65) == 128 * 128 // 4
    assert layout_bytes(LAYOUT_I16_P16G4, 17, 65) == 32 * 128 * 2
    assert [layout_bytes(*wrong) for wrong in [(9, 1, 1), (1, 0, 1), (1, -1, 1), (1, 2**70, 1), (-(2**40), 1, 1)]] == [
        0
    ] * 5


def test_head_rows_may_come_in_pieces_and_keep_their_values() -> None:
    rng = np.random.default_rng(0)
    n, k = 50, 70
    weights = (rng.normal(0, 1, (n, k)) * 2.0 ** rng.integers(-20, 20, (n, 1))).astype(np.float32)
    weights[7] = 0.0
    whole = np.empty(layout_bytes(LAYOUT_I16_P16G4, n, k), dtype=np.uint8)
    shift = np.empty(n, dtype=np.int8)
    pack_head(weights, 0, (n, k), whole, shift)
    pieces, piece_shift = np.empty_like(whole), np.empty_like(shift)
    for row0 in range(0, n, HEAD_PANEL):
        rows = weights[row0 : row0 + HEAD_PANEL]
        pack_head(rows, row0, (n, k), pieces, piece_shift[row0 : row0 + len(rows)])
    np.testing.assert_array_equal(pieces, whole)
    np.testing.assert_array_equal(piece_shift, shift)

    planes = whole.view(np.int8).reshape(2, 4, 32, 16, 4)  # plane, panel, group, row, input
    high, low = planes.transpose(0, 1, 3, 2, 4).reshape(2, 64, 128)[:, :n, :k].astype(np.int64)
    values = (256 * high + low) * 2.0 ** -shift.astype(np.float64)[:, None]
    assert (
        np.abs(values - weights).max(axis=1) == pytest.approx(0.0, abs=0)
        or (np.abs(values - weights) <= 2.0**-15 * np.abs(weights).max(axis=1, keepdims=True)).all()
    )


def test_impossible_input_is_refused() -> None:
    with pytest.raises(NativeError, match="code at"):
        pack_ternary(np.full((4, 4), 2, dtype=np.int8))
    with pytest.raises(NativeError, match="code 3"):
        unpack_ternary(np.full(layout_bytes(LAYOUT_T2_P64G4, 4, 4), 255, dtype=np.uint8), 4, 4)
    with pytest.raises(NativeError, match="code 3"):
        pack_dense(np.full(layout_bytes(LAYOUT_T2_P64G4, 4, 4), 255, dtype=np.uint8), 4, 4)
    with pytest.raises(NativeError, match="never occurs"):
        unpack_dense(np.full(layout_bytes(LAYOUT_T5_P64G4, 4, 4), 1, dtype=np.uint8), 4, 4)
    with pytest.raises(NativeError, match="expected 1024 and 832"):
        unpack_dense(np.zeros(5, dtype=np.uint8), 4, 4)
    with pytest.raises(NativeError, match="expected"):
        unpack_ternary(np.zeros(5, dtype=np.uint8), 4, 4)
    with pytest.raises(ValueError, match="byte rows"):
        unpack_hf(np.zeros((3, 4), dtype=np.uint8), 16)
    with pytest.raises(TypeError, match="int8"):
        pack_ternary(np.zeros((4, 4), dtype=np.int32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous"):
        pack_ternary(np.zeros((4, 8), dtype=np.int8)[:, ::2])
    out = np.empty(layout_bytes(LAYOUT_I16_P16G4, 1, 4), dtype=np.uint8)
    with pytest.raises(NativeError, match="finite"):
        pack_head(np.full((1, 4), np.nan, dtype=np.float32), 0, (1, 4), out, np.empty(1, dtype=np.int8))

"""The native packing functions against an independent numpy reading of the layouts."""

from __future__ import annotations

import numpy as np
import pytest
from layouts import dense_panels, head_planes, ternary_columns, ternary_panels, ternary_rows

from tritserve.model.header import Layout, layout_bytes
from tritserve.model.random_checkpoint import pack_hf
from tritserve.native import packing

SHAPES = [(1, 4), (4, 8), (16, 64), (64, 64), (65, 60), (130, 172), (256, 540)]
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


@pytest.mark.parametrize("shape", SHAPES)
def test_native_ternary_packing_equals_the_numpy_reading(shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(0).integers(-1, 2, shape, dtype=np.int8)
    packed = packing.pack_ternary(codes)
    assert np.array_equal(packed, ternary_panels(codes))
    assert np.array_equal(packing.unpack_ternary(packed, *shape), codes)
    assert packed.size == layout_bytes(Layout.T2_P64G4, *shape)


@pytest.mark.parametrize("layout", [Layout.T2_ROWS, Layout.T2_COLS])
@pytest.mark.parametrize("shape", SHAPES)
def test_layouts_made_for_skipping_equal_the_numpy_reading(shape: tuple[int, int], layout: Layout) -> None:
    codes = np.random.default_rng(3).integers(-1, 2, shape, dtype=np.int8)
    packed = packing.pack_ternary(codes, layout)
    assert np.array_equal(packed, ternary_rows(codes) if layout is Layout.T2_ROWS else ternary_columns(codes))
    assert np.array_equal(packing.unpack_ternary(packed, *shape, layout), codes)
    assert packed.size == layout_bytes(layout, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_dense_packing_equals_the_numpy_reading(shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(2).integers(-1, 2, shape, dtype=np.int8)
    dense = packing.pack_ternary(codes, packing.LAYOUT_T5_P64G4)
    assert np.array_equal(dense, dense_panels(codes))
    assert np.array_equal(packing.unpack_dense(dense, *shape), packing.pack_ternary(codes))
    assert dense.size == layout_bytes(Layout.T5_P64G4, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_head_packing_equals_the_numpy_reading(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.normal(0, 1, shape) * 2.0 ** rng.integers(-9, 9, (shape[0], 1))).astype(np.float32)
    rows[0] = 0
    out, shift = np.zeros(layout_bytes(Layout.I16_P16G4, *shape), dtype=np.uint8), np.empty(shape[0], dtype=np.int8)
    for first in range(0, shape[0], 32):
        part = rows[first : first + 32]
        packing.pack_head(part, first, shape, out, shift[first : first + len(part)])
    expected, expected_shift = head_planes(rows)
    assert np.array_equal(shift, expected_shift)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (128_256, 2560), (2**20, 2**20)])
def test_layout_bytes_equals_the_library(layout: Layout, shape: tuple[int, int]) -> None:
    assert layout_bytes(layout, *shape) == packing.layout_bytes(layout, *shape)


def test_hugging_face_bytes_of_the_worked_example() -> None:
    packed = pack_hf(EXAMPLE)
    assert packed.tobytes().hex(" ") == "82 58 15 26 59 89 2a 90"
    assert np.array_equal(packing.unpack_hf(packed, 8), EXAMPLE)


@pytest.mark.parametrize("n", [4, 6, 9, 540])
def test_hugging_face_bytes_come_back(n: int) -> None:
    codes = np.random.default_rng(n).integers(-1, 2, (n, 12), dtype=np.int8)
    assert np.array_equal(packing.unpack_hf(pack_hf(codes), n), codes)

"""Packing for conversion: codes and float rows into the layouts that kernels read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritserve.native._trit import lib
from tritserve.native.buffers import view
from tritserve.native.status import check, new_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUT_F32 = 1
LAYOUT_I8 = 2
LAYOUT_T2_P64G4 = 3
LAYOUT_I16_P16G4 = 4
LAYOUT_T5_P64G4 = 5
LAYOUT_T2_ROWS = 6
LAYOUT_T2_COLS = 7
HEAD_PANEL = lib.TRIT_HEAD_PANEL


def layout_bytes(layout: int, n: int, k: int) -> int:
    """Return the bytes of an (n, k) tensor in a layout, 0 if there is no such tensor."""
    if not (0 < n < 2**63 and 0 < k < 2**63 and 0 < layout < 2**31):
        return 0
    return lib.trit_layout_bytes(layout, n, k)


def pack_ternary(codes: NDArray[np.int8], layout: int = LAYOUT_T2_P64G4) -> NDArray[np.uint8]:
    """Pack (n, k) int8 codes in {-1, 0, 1} to the bytes of a ternary layout. Raises NativeError."""
    n, k = codes.shape
    if layout == LAYOUT_T5_P64G4:
        return pack_dense(pack_ternary(codes), n, k)
    packed = np.empty(layout_bytes(layout, n, k), dtype=np.uint8)
    error = new_error()
    source, target = view("codes", codes, np.int8, (n, k)), view("out", packed, np.uint8, (None,), writable=True)
    check(lib.trit_pack_ternary(layout, source, n, k, target, packed.size, error), error)
    return packed


def pack_dense(packed: NDArray[np.uint8], n: int, k: int) -> NDArray[np.uint8]:
    """Turn T2_P64G4 bytes of (n, k) into T5_P64G4 bytes. Raises NativeError if a code is 3."""
    dense = np.empty(layout_bytes(LAYOUT_T5_P64G4, n, k), dtype=np.uint8)
    error = new_error()
    source, target = view("packed", packed, np.uint8, (None,)), view("out", dense, np.uint8, (None,), writable=True)
    check(lib.trit_pack_dense(source, packed.size, n, k, target, dense.size, error), error)
    return dense


def unpack_dense(dense: NDArray[np.uint8], n: int, k: int) -> NDArray[np.uint8]:
    """Invert pack_dense. Raises NativeError for a byte that never occurs."""
    packed = np.empty(layout_bytes(LAYOUT_T2_P64G4, n, k), dtype=np.uint8)
    error = new_error()
    source, target = view("dense", dense, np.uint8, (None,)), view("out", packed, np.uint8, (None,), writable=True)
    check(lib.trit_unpack_dense(source, dense.size, n, k, target, packed.size, error), error)
    return packed


def unpack_ternary(packed: NDArray[np.uint8], n: int, k: int, layout: int = LAYOUT_T2_P64G4) -> NDArray[np.int8]:
    """Invert pack_ternary: bytes of a ternary layout to (n, k) int8. Raises NativeError if a code is 3."""
    codes = np.empty((n, k), dtype=np.int8)
    error = new_error()
    source, target = view("packed", packed, np.uint8, (None,)), view("codes", codes, np.int8, (n, k), writable=True)
    check(lib.trit_unpack_ternary(layout, source, packed.size, n, k, target, error), error)
    return codes


def unpack_hf(packed: NDArray[np.uint8], n: int) -> NDArray[np.int8]:
    """Turn Hugging Face's (ceil(n / 4), k) packed bytes into (n, k) int8 codes. Raises NativeError if a code is 3."""
    byte_rows, k = packed.shape
    if byte_rows != (n + 3) // 4:
        raise ValueError(f"packed has {byte_rows} byte rows, expected {(n + 3) // 4} for {n} rows")
    codes = np.empty((n, k), dtype=np.int8)
    error = new_error()
    source, target = (
        view("packed", packed, np.uint8, (byte_rows, k)),
        view("codes", codes, np.int8, (n, k), writable=True),
    )
    check(lib.trit_unpack_hf(source, n, k, target, error), error)
    return codes


def pack_head(
    rows: NDArray[np.float32], row0: int, shape: tuple[int, int], out: NDArray[np.uint8], shift: NDArray[np.int8]
) -> None:
    """Pack rows [row0, row0 + m) of an (n, k) = ``shape`` matrix into their places of the I16_P16G4 bytes ``out``.

    ``rows`` (m, k) float32; ``shift`` (m) int8 is written. row0 and, except at the end, m are multiples of HEAD_PANEL.
    Raises NativeError for a weight that is not finite.
    """
    n, k = shape
    m = rows.shape[0]
    error = new_error()
    source = view("rows", rows, np.float32, (m, k))
    target = view("out", out, np.uint8, (None,), writable=True)
    shifts = view("shift", shift, np.int8, (m,), writable=True)
    check(lib.trit_pack_head(source, row0, m, n, k, target, out.size, shifts, error), error)

"""The packed layouts of native/include/trit/trit.h in plain numpy, written from their description alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def ternary_panels(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(n, k) codes to T2_P64G4: bits 2f, 2f + 1 of byte b are weight + 1 of output 16f + b / 4 and input b % 4."""
    n, k = codes.shape
    full = np.zeros((-(-n // 64) * 64, -(-k // 64) * 64), dtype=np.int8)
    full[:n, :k] = codes
    panels, groups = full.shape[0] // 64, full.shape[1] // 4
    out = np.zeros((panels, groups, 64), dtype=np.uint8)
    for byte in range(64):
        for f in range(4):
            weight = full[16 * f + byte // 4 :: 64, byte % 4 :: 4]
            out[:, :, byte] |= (weight + 1).astype(np.uint8) << np.uint8(2 * f)
    return out.reshape(-1)


def dense_panels(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(n, k) codes to T5_P64G4: four vectors for five of T2_P64G4, ceil(256 V / 243) of five codes in a byte."""
    packed = ternary_panels(codes).reshape(-(-codes.shape[0] // 64), -1, 64).astype(np.int64)
    fields = np.stack([packed >> 2 * f & 3 for f in range(4)])  # field, panel, group, byte
    four = 27 * fields[3] + 9 * fields[2] + 3 * fields[1] + fields[0]
    groups = packed.shape[1]
    vectors = []
    for group in range(groups):
        if group // 5 * 5 + 5 > groups:
            vectors.append(four[:, group] + 81)
        elif group % 5 < 4:
            vectors.append(four[:, group] + 81 * fields[group % 5][:, group // 5 * 5 + 4])
    value = np.stack(vectors, axis=1)
    return (-(-256 * value // 243)).astype(np.uint8).reshape(-1)


def ternary_rows(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(n, k) codes to T2_ROWS: bits 2f, 2f + 1 of byte b of an output's 64 bytes are weight + 1 of input 64f + b."""
    n, k = codes.shape
    full = np.zeros((n, -(-k // 256) * 256), dtype=np.int8)
    full[:, :k] = codes
    fields = (full + 1).astype(np.uint8).reshape(n, -1, 4, 64)
    return sum(fields[:, :, f] << np.uint8(2 * f) for f in range(4)).reshape(-1)


def ternary_columns(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(n, k) codes to T2_COLS: bits 2f, 2f + 1 of byte b of an input's 16 bytes per panel are weight + 1 of output 16f + b."""
    n, k = codes.shape
    full = np.zeros((-(-k // 64) * 64, -(-n // 64) * 64), dtype=np.int8)
    full[:k, :n] = codes.T
    fields = (full + 1).astype(np.uint8).reshape(full.shape[0], -1, 4, 16)
    return sum(fields[:, :, f] << np.uint8(2 * f) for f in range(4)).reshape(-1)


def head_planes(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """(n, k) weights to I16_P16G4 and the shift of each row (docs/numerics.md, "Head")."""
    n, k = rows.shape
    wide = rows.astype(np.float64)
    shift = np.zeros(n, dtype=np.int64)
    for r in range(n):
        largest = np.abs(wide[r]).max()
        if largest > 0:
            shift[r] = next(s for s in range(126, -127, -1) if np.rint(np.ldexp(largest, s)) <= 32512)
    e = np.rint(np.ldexp(wide, shift[:, None])).astype(np.int64)
    low = (e + 128) % 256 - 128
    planes = np.zeros((2, -(-n // 16) * 16, -(-k // 64) * 64), dtype=np.int8)
    planes[0, :n, :k], planes[1, :n, :k] = (e - low) // 256, low
    panels = planes.reshape(2, planes.shape[1] // 16, 16, planes.shape[2] // 4, 4).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(panels).reshape(-1).view(np.uint8), shift.astype(np.int8)

"""The byte order of packed ternary weights in a Hugging Face BitNet checkpoint.

Row r of a matrix with ``out`` rows lies in byte row ``r mod (out / 4)``, in bits
``2 * (r div (out / 4))`` and up: the four weights of a byte are a quarter of the rows apart.

    bits      7 6        5 4        3 2        1 0
    byte row  r + 3n/4   r + n/2    r + n/4    r        (n = out; each holds code + 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(4, 1, 1)


def pack_codes(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack codes in {-1, 0, 1}: (out, in) int8 to (out / 4, in) uint8.

    Raises ValueError unless ``out`` is a multiple of 4 and every code is ternary.
    """
    out, width = codes.shape
    if out % 4:
        raise ValueError(f"{out} rows are not a multiple of 4")
    if codes.size and (codes.min() < -1 or codes.max() > 1):
        raise ValueError("a code is outside {-1, 0, 1}")
    quarters = (codes + 1).astype(np.uint8).reshape(4, out // 4, width)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(quarters << _SHIFTS, axis=0)
    return packed


def unpack_codes(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Invert pack_codes: (out / 4, in) uint8 to (out, in) int8."""
    quarters = (packed[np.newaxis] >> _SHIFTS) & 3
    return quarters.reshape(-1, packed.shape[1]).astype(np.int8) - np.int8(1)

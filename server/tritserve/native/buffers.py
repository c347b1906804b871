"""Zero-copy views of numpy arrays for C: dtype, shape and contiguity are checked here, once.

A view keeps its array alive; keep the view until the C call that uses its address has returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tritserve.native._trit import ffi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritserve.native._trit import CData

_C_NAMES = {
    np.dtype(np.int8): "int8_t[]",
    np.dtype(np.uint8): "uint8_t[]",
    np.dtype(np.int32): "int32_t[]",
    np.dtype(np.uint32): "uint32_t[]",
    np.dtype(np.float32): "float[]",
}


def view(
    name: str,
    array: NDArray[Any],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    *,
    writable: bool = False,
) -> CData:
    """Return the C array behind ``array``. ``shape``: expected sizes, None for any.

    Raises TypeError for another dtype, ValueError for another shape, a non-contiguous or, if asked for, a read-only array.
    """
    if array.dtype != dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {np.dtype(dtype)}")
    if array.ndim != len(shape) or any(e is not None and e != g for e, g in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected ({expected})")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only, expected a writable array")
    return ffi.from_buffer(_C_NAMES[array.dtype], array, writable)

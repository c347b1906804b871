"""A growing array of int32: token histories and block tables that native code reads in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FIRST_CAPACITY = 64


class Int32Buffer:
    """Append-only int32 values in one array, doubled when full.

    ``view`` is a window on the array, not a copy: it is good until the next append, so a step that takes it and returns
    before anything is appended may hand its address to C.
    """

    __slots__ = ("_array", "_length")

    def __init__(self, values: Sequence[int] = ()) -> None:
        self._array = np.empty(max(_FIRST_CAPACITY, len(values)), dtype=np.int32)
        self._length = 0
        self.extend(values)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} of a buffer of {self._length}")
        return int(self._array[index])

    def append(self, value: int) -> None:
        """Add one value. Raises OverflowError if it is not an int32."""
        self._reserve(self._length + 1)
        self._array[self._length] = value
        self._length += 1

    def extend(self, values: Sequence[int]) -> None:
        """Add values in order. Raises OverflowError if one is not an int32."""
        end = self._length + len(values)
        self._reserve(end)
        self._array[self._length : end] = values
        self._length = end

    def clear(self) -> None:
        """Forget every value, keep the memory."""
        self._length = 0

    def view(self, start: int = 0, end: int | None = None) -> NDArray[np.int32]:
        """Return (end - start) int32, without a copy."""
        return self._array[start : self._length if end is None else min(end, self._length)]

    def _reserve(self, length: int) -> None:
        if length <= len(self._array):
            return
        grown = np.empty(max(length, 2 * len(self._array)), dtype=np.int32)
        grown[: self._length] = self._array[: self._length]
        self._array = grown

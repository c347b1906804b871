"""The types in which keys and values are stored, in one place for settings, command lines and the native binding. Imports nothing of ours."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

KvDtypeName = Literal["int16", "int8"]
"""What ``--kv-dtype`` takes."""


class KvDtype(IntEnum):
    """Values of ``trit_kv_dtype``."""

    INT16 = 0
    INT8 = 1

    @classmethod
    def named(cls, label: str) -> KvDtype:
        """Return the type called ``label``. Raises KeyError."""
        return cls[label.upper()]

    @property
    def element_bytes(self) -> int:
        """Bytes of one value."""
        return 1 if self is KvDtype.INT8 else 2

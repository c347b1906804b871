"""The names of the instruction sets, in one place for settings, command lines and the native binding. Imports nothing of ours."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

IsaName = Literal["auto", "ref", "avx2", "avxvnni", "avx512vnni256", "avx512vnni", "amx", "neon", "neoni8mm"]
"""What ``--isa`` takes."""


class Isa(IntEnum):
    """Instruction sets; values of ``trit_isa``, worst first. ``label`` is the name that users and libtrit write."""

    AUTO = -1
    REF = 0
    AVX2 = 1
    AVXVNNI = 2
    AVX512VNNI256 = 3
    AVX512VNNI = 4
    AMX = 5
    NEON = 6
    NEONI8MM = 7

    @property
    def label(self) -> str:
        """The name in lower case."""
        return self.name.lower()

    @classmethod
    def named(cls, label: str) -> Isa:
        """Return the instruction set called ``label``. Raises KeyError."""
        return cls[label.upper()]

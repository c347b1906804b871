"""What conversion needs of a checkpoint, whatever its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritserve.model.checkpoints.hf_config import Description
    from tritserve.model.header import SourceFile, TensorKind


class FileStamp(NamedTuple):
    """What tells cheaply whether a file has changed."""

    name: str
    bytes: int
    mtime_ns: int
    inode: int


class Source(Protocol):
    """An open, checked checkpoint that gives one tensor at a time. Every method may raise ModelFileError."""

    @property
    def description(self) -> Description: ...
    @property
    def source_format(self) -> str: ...
    @property
    def tied_head(self) -> bool: ...

    def files(self) -> list[SourceFile]:
        """Return every file that decides the packed bytes, with its SHA-256."""

    def stamps(self) -> list[FileStamp]:
        """Return the stamps of those files."""

    def linear(self, kind: TensorKind, layer: int) -> tuple[NDArray[np.int8], float]:
        """Return (n, k) int8 codes in {-1, 0, 1} and the scale to multiply by."""

    def vector(self, kind: TensorKind, layer: int) -> NDArray[np.float32]:
        """Return a norm's (n) weights."""

    def rows(self, kind: TensorKind, first: int, count: int) -> NDArray[np.float32]:
        """Return rows [first, first + count) of the embedding or the head, (count, hidden)."""

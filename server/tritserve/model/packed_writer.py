"""Write a packed model file: parts one after another at multiples of 64, then the header, then the prelude over the start."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from tritserve.errors import ModelFileError
from tritserve.model.families import tensor_name
from tritserve.model.header import ALIGNMENT, Blob, Header, Tensor, TensorSpec
from tritserve.model.packed_file import MAX_HEADER_BYTES, PRELUDE_BYTES, Prelude, check_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    Buffer = bytes | memoryview

_READ_BYTES = 4 * 1024 * 1024


class PackedWriter:
    """Writes to a descriptor open for reading and writing on an empty file; the file is valid after ``finish``."""

    def __init__(self, fd: int) -> None:
        self.tensors: list[Tensor] = []
        self.tokenizer: Blob | None = None
        self._fd = fd
        self._end = PRELUDE_BYTES

    def add_tensor(self, spec: TensorSpec, chunks: Iterable[Buffer], scale: float = 1.0) -> None:
        """Append a tensor whose payload is the chunks, in order. Raises ValueError if they are not ``spec.bytes`` long."""
        blob = self._append(chunks)
        if blob.bytes != spec.bytes:
            raise ValueError(f"{spec}: {blob.bytes} bytes, expected {spec.bytes}")
        self._add(spec, blob, scale)

    def reserve_tensor(self, spec: TensorSpec) -> int:
        """Make room for a tensor whose payload is written at random; return its offset. ``finish_reserved`` must follow."""
        offset = self._end
        os.posix_fallocate(self._fd, offset, spec.bytes)  # a full disk is an error here, not SIGBUS in the mapping
        self._end = _align(offset + spec.bytes)
        return offset

    def finish_reserved(self, spec: TensorSpec, offset: int) -> None:
        """Enter a reserved tensor into the table: reads its payload back for the checksum."""
        digest = hashlib.sha256()
        for start in range(offset, offset + spec.bytes, _READ_BYTES):
            digest.update(os.pread(self._fd, min(_READ_BYTES, offset + spec.bytes - start), start))
        self._add(spec, Blob(offset=offset, bytes=spec.bytes, sha256=digest.hexdigest()), 1.0)

    def add_tokenizer(self, content: bytes) -> None:
        """Append tokenizer.json."""
        self.tokenizer = self._append([content])

    def finish(self, header: Header) -> None:
        """Write the header and the prelude. May be repeated with another header. Raises ModelFileError."""
        check_header(header, self._end)
        try:
            raw = msgspec.json.encode(header)
        except (OverflowError, msgspec.MsgspecError) as error:
            raise ModelFileError(f"config.json: cannot be kept in the packed file: {error}") from error
        if len(raw) > MAX_HEADER_BYTES:
            raise ModelFileError(f"the header has {len(raw)} bytes, expected at most {MAX_HEADER_BYTES}")
        file_bytes = self._end + len(raw)
        os.ftruncate(self._fd, file_bytes)
        _write_at(self._fd, raw, self._end)
        prelude = Prelude(len(raw), self._end, file_bytes, hashlib.sha256(raw).digest())
        _write_at(self._fd, prelude.encode(), 0)

    def _append(self, chunks: Iterable[Buffer]) -> Blob:
        digest = hashlib.sha256()
        offset = end = self._end
        for chunk in chunks:
            digest.update(chunk)
            end += _write_at(self._fd, chunk, end)
        self._end = _align(end)
        return Blob(offset=offset, bytes=end - offset, sha256=digest.hexdigest())

    def _add(self, spec: TensorSpec, blob: Blob, scale: float) -> None:
        self.tensors.append(
            Tensor(
                name=tensor_name(spec.kind, spec.layer),
                kind=spec.kind,
                layer=spec.layer,
                layout=spec.layout,
                n=spec.n,
                k=spec.k,
                offset=blob.offset,
                bytes=blob.bytes,
                scale=scale,
                sha256=blob.sha256,
            )
        )


def packed_file_bytes(specs: Iterable[TensorSpec], tokenizer_bytes: int) -> int:
    """Return how much room a packed file needs at most."""
    return PRELUDE_BYTES + sum(_align(spec.bytes) for spec in specs) + _align(tokenizer_bytes) + MAX_HEADER_BYTES


def _write_at(fd: int, content: Buffer, offset: int) -> int:
    free = memoryview(content).cast("B")
    count = len(free)
    while free:
        written = os.pwrite(fd, free, offset)
        free, offset = free[written:], offset + written
    return count


def _align(value: int) -> int:
    return (value + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT

"""The packed model file (``.trit``): one file that a worker maps and the front reads the description of.

    byte 0      prelude, 64 bytes, little endian: magic (8), version u32, header bytes u32, header offset u64, file bytes u64,
                SHA-256 of the header (32)
    byte 64     tensors and tokenizer.json, each at a multiple of 64, zeros between
    at the end  the header: JSON of ``header.Header``, at most 8 MiB; the file ends with it

Nothing in the file is trusted: every offset, size, shape and id is checked before use, and a damaged file is a
ModelFileError that says what was found and what was expected. The payload's checksums cost a pass over the file, so only
``verify_payload`` looks at them. Imports neither numpy nor the native library: the front reads these files too.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from tritserve.errors import ModelFileError
from tritserve.model.files import open_regular_path, read_at
from tritserve.model.header import (
    ALIGNMENT,
    CONVERTER_VERSION,
    MAX_WIDTH,
    TERNARY_KINDS,
    Activation,
    Architecture,
    Blob,
    GenerationDefaults,
    Header,
    KnownAnswer,
    Layout,
    Provenance,
    SourceFile,
    SpecialTokens,
    Tensor,
    TensorKind,
    expected_tensors,
    layout_bytes,
    layout_fits,
    weights_digest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "CONVERTER_VERSION",
    "Activation",
    "Architecture",
    "Blob",
    "GenerationDefaults",
    "Header",
    "KnownAnswer",
    "Layout",
    "PackedModel",
    "Prelude",
    "Provenance",
    "SourceFile",
    "SpecialTokens",
    "Tensor",
    "TensorKind",
    "layout_bytes",
    "open_packed",
    "verify_payload",
]

MAGIC = b"\x93TRIT\r\n\x1a"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TOKENIZER_BYTES = 256 * 1024 * 1024
_PRELUDE = struct.Struct("<8sIIQQ32s")
PRELUDE_BYTES = _PRELUDE.size  # 64
_READ_BYTES = 4 * 1024 * 1024


class Prelude(NamedTuple):
    """The fixed first 64 bytes."""

    header_bytes: int
    header_offset: int
    file_bytes: int
    header_sha256: bytes

    def encode(self) -> bytes:
        """Return the 64 bytes."""
        return _PRELUDE.pack(
            MAGIC, FORMAT_VERSION, self.header_bytes, self.header_offset, self.file_bytes, self.header_sha256
        )

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read the 64 bytes. Raises ModelFileError on another magic or version."""
        if len(raw) != PRELUDE_BYTES:
            raise ModelFileError(f"the file has {len(raw)} bytes, expected at least {PRELUDE_BYTES}")
        magic, version, header_bytes, header_offset, file_bytes, digest = _PRELUDE.unpack(raw)
        if magic != MAGIC:
            raise ModelFileError(f"the first bytes are {magic!r}, expected {MAGIC!r}: not a packed model")
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"format version is {version}, expected {FORMAT_VERSION}: convert the checkpoint again"
            )
        return cls(header_bytes, header_offset, file_bytes, digest)


class PackedModel:
    """An open packed model: a validated header, and the descriptor for the native library to map. A context manager."""

    def __init__(self, path: Path, fd: int, header: Header, file_bytes: int) -> None:
        self.path = path
        self.header = header
        self.file_bytes = file_bytes
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open descriptor (read only). Raises ModelFileError after ``close``."""
        if self._fd < 0:
            raise ModelFileError(f"{self.path}: the packed model is closed")
        return self._fd

    def read_tokenizer(self) -> bytes:
        """Return the bytes of tokenizer.json. Raises ModelFileError if there are none or their checksum differs."""
        blob = self.header.tokenizer
        if blob is None:
            raise ModelFileError(f"{self.path}: this packed model has no tokenizer (made for benchmarks)")
        content = read_at(self.fd, blob.offset, blob.bytes, self.path)
        _require_sha256(self.path, "tokenizer.json", hashlib.sha256(content).hexdigest(), blob.sha256)
        return content

    def close(self) -> None:
        """Close the descriptor; twice does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_packed(path: Path) -> PackedModel:
    """Open a packed model and check everything but the payload's checksums. Raises ModelFileError."""
    fd, file_bytes = open_regular_path(path)
    try:
        header = _read_header(path, fd, file_bytes)
    except ModelFileError as error:
        os.close(fd)
        raise ModelFileError(f"{path}: {error}") from error
    except BaseException:
        os.close(fd)
        raise
    return PackedModel(path, fd, header, file_bytes)


def verify_payload(model: PackedModel) -> None:
    """Read the whole file and compare every checksum. Raises ModelFileError naming the first damaged part."""
    for tensor in model.header.tensors:
        digest = hashlib.sha256()
        for chunk in _chunks(model, tensor.offset, tensor.bytes):
            digest.update(chunk)
        _require_sha256(model.path, f"tensor {tensor.name}", digest.hexdigest(), tensor.sha256)
    if model.header.tokenizer is not None:
        model.read_tokenizer()


def _chunks(model: PackedModel, offset: int, count: int) -> Iterator[bytes]:
    for start in range(offset, offset + count, _READ_BYTES):
        yield read_at(model.fd, start, min(_READ_BYTES, offset + count - start), model.path)


def _require_sha256(path: Path, what: str, got: str, expected: str) -> None:
    if got != expected:
        raise ModelFileError(f"{path}: SHA-256 of {what} is {got}, expected {expected}: the file is damaged")


def _read_header(path: Path, fd: int, file_bytes: int) -> Header:
    prelude = Prelude.decode(read_at(fd, 0, min(PRELUDE_BYTES, file_bytes), path))
    if prelude.file_bytes != file_bytes:
        raise ModelFileError(f"the file has {file_bytes} bytes, expected {prelude.file_bytes}: cut off or changed")
    if not 0 < prelude.header_bytes <= MAX_HEADER_BYTES:
        raise ModelFileError(f"the header has {prelude.header_bytes} bytes, expected 1 to {MAX_HEADER_BYTES}")
    end = prelude.header_offset + prelude.header_bytes
    if prelude.header_offset < PRELUDE_BYTES or end != file_bytes:
        raise ModelFileError(f"the header ends at byte {end}, expected the file's end at {file_bytes}")
    raw = read_at(fd, prelude.header_offset, prelude.header_bytes, path)
    if hashlib.sha256(raw).digest() != prelude.header_sha256:
        raise ModelFileError("the header's SHA-256 is not the one in the prelude: the file is damaged")
    try:
        header = msgspec.json.decode(raw, type=Header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the header is not valid: {error}") from error
    check_header(header, payload_end=prelude.header_offset)
    return header


def check_header(header: Header, payload_end: int) -> None:
    """Check a header against itself and the payload's bytes [64, ``payload_end``). Raises ModelFileError."""
    _check_architecture(header.architecture)
    _check_table(header)
    _check_places(header, payload_end)
    _check_ids(header)
    digest = weights_digest(header.architecture, header.tensors)
    if digest != header.weights_sha256:
        raise ModelFileError(f"weights_sha256 is {header.weights_sha256}, expected {digest}")


def _check_architecture(architecture: Architecture) -> None:
    a = architecture
    if a.n_heads % a.n_kv_heads:
        raise ModelFileError(f"n_kv_heads is {a.n_kv_heads}, expected a divisor of n_heads, {a.n_heads}")
    if a.n_heads * a.head_dim > MAX_WIDTH:
        raise ModelFileError(f"n_heads * head_dim is {a.n_heads * a.head_dim}, expected at most {MAX_WIDTH}")


def _check_table(header: Header) -> None:
    found = {(tensor.kind, tensor.layer): tensor for tensor in header.tensors}
    if len(found) != len(header.tensors):
        raise ModelFileError("the tensor table names a tensor twice")
    tied = (TensorKind.HEAD, -1) not in found
    num_expected = 0
    for spec in expected_tensors(header.architecture, tied_head=tied):
        num_expected += 1
        tensor = found.get((spec.kind, spec.layer))
        if tensor is None:
            raise ModelFileError(f"tensor {spec.kind.name} of layer {spec.layer} is missing")
        if layout_fits(spec.kind, tensor.layout):
            spec = spec._replace(layout=tensor.layout)
        got = (tensor.layout, tensor.layout_version, tensor.n, tensor.k, tensor.bytes)
        expected = (spec.layout, 1, spec.n, spec.k, spec.bytes)
        if got != expected:
            raise ModelFileError(f"{tensor.name}: (layout, version, n, k, bytes) is {got}, expected {expected}")
        _check_scale(tensor)
    if num_expected != len(found):
        raise ModelFileError(f"the tensor table has {len(found)} tensors, expected {num_expected}")


def _check_scale(tensor: Tensor) -> None:
    if tensor.kind not in TERNARY_KINDS:
        if tensor.scale != 1.0:
            raise ModelFileError(f"{tensor.name}: scale is {tensor.scale}, expected 1")
        return
    # The library's bound: far above the denormals that it flushes to zero.
    if not (math.isfinite(tensor.scale) and 1e-30 <= tensor.scale < 2.0**127):
        raise ModelFileError(f"{tensor.name}: scale is {tensor.scale}, expected a positive float32")
    if struct.unpack("<f", struct.pack("<f", tensor.scale))[0] != tensor.scale:
        raise ModelFileError(f"{tensor.name}: scale is {tensor.scale}, expected a value that float32 holds")


def _check_places(header: Header, payload_end: int) -> None:
    places = [(tensor.offset, tensor.bytes, tensor.name) for tensor in header.tensors]
    if header.tokenizer is not None:
        if header.tokenizer.bytes > MAX_TOKENIZER_BYTES:
            raise ModelFileError(
                f"tokenizer.json has {header.tokenizer.bytes} bytes, expected at most {MAX_TOKENIZER_BYTES}"
            )
        places.append((header.tokenizer.offset, header.tokenizer.bytes, "tokenizer.json"))
    free = PRELUDE_BYTES
    for offset, count, name in sorted(places):
        if offset % ALIGNMENT:
            raise ModelFileError(f"{name}: offset is {offset}, expected a multiple of {ALIGNMENT}")
        if offset < free:
            raise ModelFileError(f"{name}: offset is {offset}, expected at least {free}: parts overlap")
        free = offset + count
        if free > payload_end:
            raise ModelFileError(f"{name}: bytes [{offset}, {free}) leave the payload, which ends at {payload_end}")


def _check_ids(header: Header) -> None:
    special, vocab = header.special_tokens, header.architecture.vocab
    ids = [("bos", special.bos), ("pad", special.pad), *(("eos", token) for token in special.eos)]
    if header.known_answer is not None:
        ids += [("known answer's", token) for token in header.known_answer.token_ids]
        if header.architecture.max_positions < len(header.known_answer.token_ids):
            raise ModelFileError("the known answer is longer than the context")
    for name, token in ids:
        if token is not None and token >= vocab:
            raise ModelFileError(f"{name} token id is {token}, expected less than the vocabulary's {vocab}")

"""Read safetensors checkpoints, one file or shards with an index, without trusting them.

Own reader rather than the ``safetensors`` package: its numpy side knows no bf16 (numpy has no such type) and would need torch,
it maps whole files (a mapping turns a file that shrinks into SIGBUS), takes headers of 100 MB, lets the last of two equal names win, and
opens whatever path an index names. A header is a length and a JSON object, so what is left to write is the checks:

    bytes 0-7   length of the header, u64 little endian, at most 8 MiB
    header      JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}
    then        the data; ranges are relative to its start and cover it without holes or overlap, as the format demands

Sizes are Python integers: products cannot wrap. A tensor is allocated only after its range was found inside the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta

from tritserve.errors import ModelFileError
from tritserve.model.files import open_in_folder, read_small

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_ENTRIES = 65_536
MAX_SHARDS = 1024
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_HASH_BYTES = 4 * 1024 * 1024

# How each dtype is stored, and so how many bytes an element has. bf16 is read as its bit pattern.
_STORED: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype(np.bool_),
}
_FLOATS = ("BF16", "F16", "F32")

_Extent = Annotated[int, Meta(ge=0, lt=2**62)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[list[_Extent], Meta(max_length=8)]
    data_offsets: tuple[_Extent, _Extent]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: its shard, and the absolute byte range there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Shard
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One open file of a checkpoint."""

    name: str
    fd: int
    file_bytes: int


class SafetensorsCheckpoint:
    """The tensors of a checkpoint folder by name, read one at a time. A context manager: holds its files open."""

    def __init__(self, folder: Path, shards: list[Shard], tensors: dict[str, TensorInfo]) -> None:
        self.folder = folder
        self.shards = shards
        self.tensors = tensors

    def read_bytes(self, name: str) -> NDArray[np.uint8]:
        """Return a U8 tensor in its shape. Raises ModelFileError."""
        info = self._info(name)
        if info.dtype != "U8":
            raise self._error(info, f"dtype is {info.dtype}, expected U8")
        return self._read(info, 0, info.num_bytes).reshape(info.shape)

    def read_floats(self, name: str) -> NDArray[np.float32]:
        """Return a BF16, F16 or F32 tensor as float32 (exactly) in its shape. Raises ModelFileError."""
        info = self._info(name)
        return self._floats(info, 0, info.num_bytes).reshape(info.shape)

    def read_float_rows(self, name: str, first: int, count: int) -> NDArray[np.float32]:
        """Return rows [first, first + count) of a (n, k) float tensor as float32, without reading the others."""
        info = self._info(name)
        if len(info.shape) != 2 or not 0 <= first <= first + count <= info.shape[0]:
            raise self._error(info, f"rows [{first}, {first + count}) of shape {list(info.shape)}")
        row_bytes = info.num_bytes // info.shape[0] if info.shape[0] else 0
        return self._floats(info, first * row_bytes, count * row_bytes).reshape(count, info.shape[1])

    def sha256(self, shard: Shard) -> str:
        """Return the SHA-256 of a shard's whole file."""
        digest = hashlib.sha256()
        for offset in range(0, shard.file_bytes, _HASH_BYTES):
            digest.update(self._pread(shard, offset, min(_HASH_BYTES, shard.file_bytes - offset)).data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files; twice does no harm."""
        shards, self.shards = self.shards, []
        for shard in shards:
            os.close(shard.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _info(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None:
            raise ModelFileError(f"{self.folder}: tensor {name} is missing")
        return info

    def _floats(self, info: TensorInfo, start: int, count: int) -> NDArray[np.float32]:
        if info.dtype not in _FLOATS:
            raise self._error(info, f"dtype is {info.dtype}, expected one of {', '.join(_FLOATS)}")
        stored = self._read(info, start, count).view(_STORED[info.dtype])
        if info.dtype == "BF16":  # the upper half of a float32
            wide = stored.astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32)
        return stored.astype(np.float32, copy=False)

    def _read(self, info: TensorInfo, start: int, count: int) -> NDArray[np.uint8]:
        return self._pread(info.shard, info.offset + start, count)

    def _pread(self, shard: Shard, offset: int, count: int) -> NDArray[np.uint8]:
        content = np.empty(count, dtype=np.uint8)
        free = content.data
        while free:
            try:
                got = os.preadv(shard.fd, [free], offset)
            except OSError as error:
                raise ModelFileError(f"{self.folder / shard.name}: cannot read: {error.strerror or error}") from error
            if got == 0:
                raise ModelFileError(f"{self.folder / shard.name}: ends at byte {offset}: it was cut while being read")
            free, offset = free[got:], offset + got
        return content

    def _error(self, info: TensorInfo, text: str) -> ModelFileError:
        return ModelFileError(f"{self.folder / info.shard.name}: tensor {info.name}: {text}")


def open_safetensors(folder: Path) -> SafetensorsCheckpoint:
    """Open ``model.safetensors``, or the shards that ``model.safetensors.index.json`` names. Raises ModelFileError."""
    weight_map: dict[str, str] | None = None
    names: Iterable[str] = [SINGLE_NAME]
    if not os.path.lexists(folder / SINGLE_NAME) and os.path.lexists(folder / INDEX_NAME):
        weight_map = _read_index(folder)
        names = sorted(set(weight_map.values()))
    shards: list[Shard] = []
    tensors: dict[str, TensorInfo] = {}
    try:
        for name in names:
            fd, file_bytes = open_in_folder(folder, name)
            shards.append(Shard(name, fd, file_bytes))
            for info in _read_entries(folder, shards[-1]):
                if info.name in tensors:
                    raise ModelFileError(
                        f"{folder / name}: tensor {info.name} is in {tensors[info.name].shard.name} too"
                    )
                if weight_map is not None and weight_map.get(info.name) != name:
                    raise ModelFileError(f"{folder / name}: tensor {info.name} is not listed there in {INDEX_NAME}")
                tensors[info.name] = info
        for tensor in weight_map or ():
            if tensor not in tensors:
                raise ModelFileError(f"{folder / INDEX_NAME}: tensor {tensor} is not in any shard")
    except BaseException:
        for shard in shards:
            os.close(shard.fd)
        raise
    return SafetensorsCheckpoint(folder, shards, tensors)


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX_NAME
    try:
        weight_map = msgspec.json.decode(read_small(folder, INDEX_NAME, MAX_HEADER_BYTES), type=_Index).weight_map
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a valid index: {error}") from error
    names = set(weight_map.values())
    if not 0 < len(names) <= MAX_SHARDS or len(weight_map) > MAX_ENTRIES:
        raise ModelFileError(
            f"{path}: {len(weight_map)} tensors in {len(names)} shards, expected 1 to {MAX_SHARDS} shards"
        )
    for name in names:
        if not _SHARD_NAME.fullmatch(name):
            raise ModelFileError(f"{path}: shard name is {name[:80]!r}, expected a plain name ending in .safetensors")
    return weight_map


def _read_entries(folder: Path, shard: Shard) -> list[TensorInfo]:
    path = folder / shard.name
    reader = SafetensorsCheckpoint(folder, [shard], {})
    if shard.file_bytes < 8:
        raise ModelFileError(f"{path}: has {shard.file_bytes} bytes, expected at least 8")
    header_bytes = int.from_bytes(reader._pread(shard, 0, 8).tobytes(), "little")
    limit = min(MAX_HEADER_BYTES, shard.file_bytes - 8)
    if not 2 <= header_bytes <= limit:
        raise ModelFileError(f"{path}: header length is {header_bytes}, expected 2 to {limit}")
    raw = reader._pread(shard, 8, header_bytes).tobytes()
    try:
        entries = _parse_header(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is not valid: {error}") from error
    data_start, data_bytes = 8 + header_bytes, shard.file_bytes - 8 - header_bytes
    infos: list[TensorInfo] = []
    free = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        stored = _STORED.get(entry.dtype)
        if stored is None:
            raise ModelFileError(f"{path}: tensor {name}: dtype is {entry.dtype}, expected one of {', '.join(_STORED)}")
        num_bytes = stored.itemsize
        for extent in entry.shape:
            num_bytes *= extent
        if begin != free or not begin <= end <= data_bytes:
            raise ModelFileError(
                f"{path}: tensor {name}: data_offsets are [{begin}, {end}], expected to begin at {free} and end by {data_bytes}"
            )
        if end - begin != num_bytes:
            raise ModelFileError(
                f"{path}: tensor {name}: {end - begin} bytes, expected {num_bytes} for {entry.dtype} {entry.shape}"
            )
        free = end
        infos.append(TensorInfo(name, entry.dtype, tuple(entry.shape), shard, data_start + begin, num_bytes))
    if free != data_bytes:
        raise ModelFileError(f"{path}: {data_bytes} bytes of data, expected {free}")
    return infos


def _parse_header(raw: bytes) -> dict[str, _Entry]:
    content = json.loads(raw, object_pairs_hook=_refuse_duplicates)
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    content.pop("__metadata__", None)
    if len(content) > MAX_ENTRIES:
        raise ValueError(f"{len(content)} tensors, expected at most {MAX_ENTRIES}")
    return msgspec.convert(content, dict[str, _Entry])


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} occurs twice")
    return content

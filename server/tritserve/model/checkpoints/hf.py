"""A Hugging Face checkpoint folder as a source of ternary tensors: packed (uint8) or master weights (bf16, f16, f32).

Every name, dtype and shape is compared with the architecture when the folder is opened, so that a wrong checkpoint is refused
before anything is converted.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Self

import numpy as np

from tritserve.errors import ModelFileError, NativeError
from tritserve.model.checkpoints.hf_config import SMALL_NAMES, Description, read_description
from tritserve.model.checkpoints.safetensors import SafetensorsCheckpoint, TensorInfo, open_safetensors
from tritserve.model.families import HEAD_NAME, tensor_name
from tritserve.model.files import read_small
from tritserve.model.header import TERNARY_KINDS, Layout, SourceFile, TensorKind, expected_tensors
from tritserve.model.source import FileStamp
from tritserve.model.ternarise import ternarise
from tritserve.native.packing import unpack_hf

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE_FORMAT = "safetensors"
# A ternary matrix is of order 1 times the scale. The reciprocal of the usual 0.02 is not in this range: a checkpoint read with the
# wrong linear_class is noticed here where it can be noticed at all.
_LEAST_SCALE, _MOST_SCALE = 1e-6, 50.0
_COMPUTED_KINDS = (TensorKind.EMBED_SHIFT, TensorKind.HEAD_SHIFT, TensorKind.ROPE_COS, TensorKind.ROPE_SIN)
_IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_FLOATS = ("BF16", "F16", "F32")


class HfCheckpoint:
    """An open, checked checkpoint folder. A context manager; reads one tensor at a time."""

    source_format = SOURCE_FORMAT

    def __init__(self, folder: Path, description: Description, weights: SafetensorsCheckpoint) -> None:
        self.folder = folder
        self.description = description
        self.tied_head = HEAD_NAME not in weights.tensors
        self._weights = weights

    def files(self) -> list[SourceFile]:
        """Return every file that decides the packed bytes, with its SHA-256: reads the whole checkpoint."""
        small = [(name, self._content(name)) for name in SMALL_NAMES if (self.folder / name).exists()]
        found = [SourceFile(name=n, bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for n, c in small]
        shards = self._weights.shards
        found += [SourceFile(name=s.name, bytes=s.file_bytes, sha256=self._weights.sha256(s)) for s in shards]
        return found

    def stamps(self) -> list[FileStamp]:
        """Return what tells cheaply whether one of these files has changed."""
        small = [(name, os.stat(self.folder / name)) for name in SMALL_NAMES if (self.folder / name).exists()]
        large = [(shard.name, os.fstat(shard.fd)) for shard in self._weights.shards]
        return [FileStamp(name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in small + large]

    def linear(self, kind: TensorKind, layer: int) -> tuple[NDArray[np.int8], float]:
        """Return a linear's (n, k) int8 codes and its scale, to multiply by. Raises ModelFileError."""
        name = tensor_name(kind, layer)
        info = self._weights.tensors[name]
        stored = self._stored_scale(name)
        try:
            if info.dtype == "U8":
                codes = unpack_hf(self._weights.read_bytes(name), self._num_rows(kind))
                scale = self._required_scale(name, stored)
            elif stored is None:
                codes, scale = ternarise(self._weights.read_floats(name))
            else:
                codes, scale = self._unpacked_codes(name), stored
        except (NativeError, ValueError) as error:
            raise ModelFileError(f"{self.folder / info.shard.name}: tensor {name}: {error}") from error
        if not _LEAST_SCALE <= scale <= _MOST_SCALE:
            raise ModelFileError(
                f"{self.folder / info.shard.name}: tensor {name}: scale is {scale:g}, expected {_LEAST_SCALE:g} to {_MOST_SCALE:g}: "
                "is quantization_config.linear_class right?"
            )
        return codes, scale

    def vector(self, kind: TensorKind, layer: int) -> NDArray[np.float32]:
        """Return a norm's weights, (n) float32. Raises ModelFileError if one is not finite."""
        name = tensor_name(kind, layer)
        values = self._weights.read_floats(name)
        if not np.isfinite(values).all():
            raise ModelFileError(f"{self.folder}: tensor {name}: a weight is not finite")
        return values

    def rows(self, kind: TensorKind, first: int, count: int) -> NDArray[np.float32]:
        """Return rows [first, first + count) of the embedding or the head, (count, hidden) float32. Raises ModelFileError."""
        return self._weights.read_float_rows(tensor_name(kind, -1), first, count)

    def close(self) -> None:
        """Close the files; twice does no harm."""
        self._weights.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _content(self, name: str) -> bytes:
        return read_small(self.folder, name, 2**30)

    def _num_rows(self, kind: TensorKind) -> int:
        a = self.description.architecture
        specs = expected_tensors(a, tied_head=True)
        return next(spec.n for spec in specs if spec.kind is kind)

    def _stored_scale(self, name: str) -> float | None:
        """Return the scale to multiply by, or None if the checkpoint stores none."""
        scale_name = name + "_scale"
        if scale_name not in self._weights.tensors:
            return None
        value = np.float32(self._weights.read_floats(scale_name).reshape(-1)[0])
        if not np.isfinite(value) or value <= 0:
            raise ModelFileError(f"{self.folder}: tensor {scale_name}: is {value}, expected a positive number")
        with np.errstate(over="ignore"):
            return float(np.float32(1.0) / value if self.description.divides else value)

    def _required_scale(self, name: str, scale: float | None) -> float:
        if scale is None:
            raise ModelFileError(f"{self.folder}: tensor {name}_scale is missing, expected for packed weights")
        return scale

    def _unpacked_codes(self, name: str) -> NDArray[np.int8]:
        """Codes stored as floats beside a weight_scale: how the library saves a packed model that it has loaded."""
        values = self._weights.read_floats(name)
        codes = np.clip(np.nan_to_num(values), -1, 1).astype(np.int8)
        if not np.array_equal(codes, values):
            raise ValueError("has a weight_scale, but values other than -1, 0 and 1")
        return codes


def open_hf(folder: Path) -> HfCheckpoint:
    """Open a checkpoint folder and check its description and every tensor's name, dtype and shape. Raises ModelFileError."""
    _require_safetensors(folder)
    description = read_description(folder)
    weights = open_safetensors(folder)
    try:
        _check_tensors(folder, description, weights)
    except BaseException:
        weights.close()
        raise
    return HfCheckpoint(folder, description, weights)


def _require_safetensors(folder: Path) -> None:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    if pickles:
        raise ModelFileError(
            f"{folder}: has {pickles[0]} but no .safetensors file: pickle files can run code and are never opened; convert them"
        )
    raise ModelFileError(f"{folder}: has no model.safetensors")


def _check_tensors(folder: Path, description: Description, weights: SafetensorsCheckpoint) -> None:
    tied = HEAD_NAME not in weights.tensors
    known: set[str] = set()
    for spec in expected_tensors(description.architecture, tied_head=tied):
        if spec.kind in _COMPUTED_KINDS:
            continue
        name = tensor_name(spec.kind, spec.layer)
        info = weights.tensors.get(name)
        if info is None:
            raise ModelFileError(f"{folder}: tensor {name} is missing")
        known.add(name)
        shape: tuple[int, ...] = (spec.n,) if spec.layout is Layout.F32 else (spec.n, spec.k)
        dtypes: tuple[str, ...] = _FLOATS
        if spec.kind in TERNARY_KINDS:
            known.add(name + "_scale")
            _check_scale(folder, weights.tensors.get(name + "_scale"))
            if info.dtype == "U8":
                shape, dtypes = ((spec.n + 3) // 4, spec.k), ("U8",)
        if info.dtype not in dtypes or info.shape != shape:
            raise ModelFileError(
                f"{folder / info.shard.name}: tensor {name}: is {info.dtype} {list(info.shape)}, expected {'/'.join(dtypes)} {list(shape)}"
            )
    for name, info in weights.tensors.items():
        if name not in known and not _IGNORED.fullmatch(name):
            raise ModelFileError(
                f"{folder / info.shard.name}: tensor {name[:120]} is unknown in a {description.family.name} model without biases"
            )


def _check_scale(folder: Path, info: TensorInfo | None) -> None:
    if info is not None and (info.dtype not in _FLOATS or set(info.shape) - {1}):
        raise ModelFileError(
            f"{folder / info.shard.name}: tensor {info.name}: is {info.dtype} {list(info.shape)}, expected one float"
        )

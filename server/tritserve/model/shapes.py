"""Published and larger model shapes by name, and models of a shape with random weights: for benchmarks and tests, without a download.

Speed depends on the shape and on how many activations squared ReLU zeroes, not on what the weights say, so a random model of 2B4T's
shape measures the real one's steps. It says nothing sensible.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np

from tritserve.model import random_zeros
from tritserve.model.header import (
    TERNARY_KINDS,
    Activation,
    Architecture,
    Header,
    Layout,
    Packing,
    Provenance,
    SpecialTokens,
    TensorKind,
    TensorSpec,
    expected_tensors,
    weights_digest,
)
from tritserve.model.known_answer import compute_known_answer
from tritserve.model.packed_writer import PackedWriter
from tritserve.model.rope import rope_tables
from tritserve.native.packing import pack_dense

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_TILE_BYTES = 4 * 1024 * 1024
_CODES = np.array([0, 0, 1, 1, 1, 2, 2], dtype=np.uint8)
"""Weight plus one: three zeros in seven, about what trained models have."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions, and what else a random model of them needs."""

    architecture: Architecture
    rope_theta: float
    tied_head: bool = True
    only_dense: bool = False
    """Too large for anything but the dense packing on the machines that it is meant for."""


def _shape(
    hidden: int,
    intermediate: int,
    n_layers: int,
    heads: tuple[int, int, int],
    vocab: int,
    max_positions: int,
    *,
    theta: float,
    eps: float = 1e-5,
    bitnet: bool = True,
    only_dense: bool = False,
) -> Shape:
    """``heads``: query heads, KV heads, head_dim. ``bitnet``: squared ReLU, sub-norms and a tied head; else Llama's graph."""
    n_heads, n_kv_heads, head_dim = heads
    architecture = Architecture(
        hidden=hidden,
        intermediate=intermediate,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        max_positions=max_positions,
        activation=Activation.RELU2 if bitnet else Activation.SILU,
        sub_norms=bitnet,
        norm_eps=eps,
    )
    return Shape(architecture, theta, tied_head=bitnet, only_dense=only_dense)


# hidden, intermediate, layers, (heads, kv heads, head_dim), vocab, positions; from the published config.json files
SHAPES = {
    "bitnet-b1.58-2b-4t": _shape(2560, 6912, 30, (20, 5, 128), 128_256, 4096, theta=5e5),
    "llama3-8b-1.58": _shape(4096, 14_336, 32, (32, 8, 128), 128_256, 8192, theta=5e5, bitnet=False),
    "falcon3-1b-1.58": _shape(2048, 8192, 18, (8, 4, 256), 131_072, 8192, theta=1_000_042.0, eps=1e-6, bitnet=False),
    "falcon3-7b-1.58": _shape(3072, 23_040, 28, (12, 4, 256), 131_072, 8192, theta=1_000_042.0, eps=1e-6, bitnet=False),
    # not published: 2B4T's graph at the widths of the largest Llamas; 28.1 and 100.7 billion ternary weights
    "bitnet-30b": _shape(6656, 17_920, 60, (52, 13, 128), 128_256, 4096, theta=5e5),
    "bitnet-100b": _shape(12_288, 33_792, 64, (96, 8, 128), 128_256, 4096, theta=5e5, only_dense=True),
    # no model, for tests: the first two exercise every padding, the third is large enough to time a step
    "tiny": _shape(64, 96, 2, (4, 2, 16), 259, 256, theta=1e4),
    "tiny-llama": _shape(60, 100, 2, (6, 3, 10), 262, 128, theta=1e4, bitnet=False),
    "small": _shape(512, 1376, 4, (8, 2, 64), 8192, 2048, theta=1e4),
}


def write_random_model(
    path: Path,
    shape: Shape,
    seed: int = 0,
    *,
    packing: Packing = "fast",
    like_demo: bool = False,
    known_answer: bool = False,
    tokenizer: bytes | None = None,
) -> Header:
    """Write a valid ``.trit`` of a shape with random weights, fast: a few MB of random valid bytes are repeated at shifting offsets, so
    that any size is written in little memory.

    ``like_demo``: with the demo model's share of zeros (random_zeros.py, whose ``fits`` says of which shapes; not where ``packing`` is dense).
    ``known_answer``: also run the self-test's tokens through the plain C path (seconds at 2B4T's size). The caller chose
    ``path``; it is overwritten.
    """
    architecture = shape.architecture
    rng = np.random.default_rng(seed)
    specs = list(expected_tensors(architecture, tied_head=shape.tied_head, packing=packing))
    tile_bytes = min(_TILE_BYTES, max(spec.bytes for spec in specs) // 64 * 64 + 4096)
    fields = _CODES[rng.integers(0, _CODES.size, size=(4, tile_bytes), dtype=np.uint8)]
    tiles = _Tiles.of(fields, rng)
    planes = rng.integers(-128, 128, size=tile_bytes, dtype=np.int8).view(np.uint8)
    cos, sin = rope_tables(architecture.max_positions, architecture.head_dim, shape.rope_theta)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        writer = PackedWriter(fd)
        for spec in specs:
            if spec.kind in TERNARY_KINDS:
                scale = 1.2 / spec.k**0.5
                pieces = random_zeros.chunks(spec, _drawing(tiles.codes, rng), rng) if like_demo else None
                if like_demo and spec.kind in (TensorKind.O, TensorKind.DOWN):
                    scale *= random_zeros.OUTPUT_SCALE
                writer.add_tensor(spec, pieces or _ternary_chunks(tiles, spec, rng), float(np.float32(scale)))
            elif spec.kind is TensorKind.EMBED and like_demo:
                writer.add_tensor(spec, random_zeros.embedding(spec, _drawing(planes, rng)))
            elif spec.kind in (TensorKind.EMBED, TensorKind.HEAD):
                writer.add_tensor(spec, _plane_chunks(planes, spec, rng))
            elif spec.kind is TensorKind.NORM_FFN_SUB and like_demo:
                writer.add_tensor(spec, [random_zeros.sub_norm(spec.n, rng).data])
            else:
                writer.add_tensor(spec, [_small(spec, rng, cos, sin).data])
        if tokenizer is not None:
            writer.add_tokenizer(tokenizer)
        header = Header(
            architecture=architecture,
            tensors=writer.tensors,
            weights_sha256=weights_digest(architecture, writer.tensors),
            tokenizer=writer.tokenizer,
            special_tokens=SpecialTokens(),
            provenance=Provenance(family="bitnet" if architecture.sub_norms else "llama", source_format="random"),
        )
        writer.finish(header)
        if known_answer:
            answer = compute_known_answer(fd, header, n_threads=len(os.sched_getaffinity(0)))
            header = msgspec.structs.replace(header, known_answer=answer)
            writer.finish(header)
        return header
    finally:
        os.close(fd)


def _small(
    spec: TensorSpec, rng: np.random.Generator, cos: NDArray[np.float32], sin: NDArray[np.float32]
) -> NDArray[np.float32] | NDArray[np.int8]:
    if spec.kind is TensorKind.ROPE_COS:
        return cos
    if spec.kind is TensorKind.ROPE_SIN:
        return sin
    if spec.kind in (TensorKind.EMBED_SHIFT, TensorKind.HEAD_SHIFT):
        return np.full(spec.n, 15, dtype=np.int8)  # the planes hold up to 2^15: weights up to 1
    return rng.uniform(0.5, 1.5, spec.n).astype(np.float32)


def _tiled(tile: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yield ``count`` bytes of the tile, each piece from another place in it (multiples of 64)."""
    while count > 0:
        start = int(rng.integers(0, tile.size // 128)) * 64
        piece = tile[start : start + count]
        count -= piece.size
        yield piece


def _drawing(tile: NDArray[np.uint8], rng: np.random.Generator) -> Callable[[int], NDArray[np.uint8]]:
    return lambda count: np.concatenate(list(_tiled(tile, count, rng)))


class _Tiles(NamedTuple):
    """Random bytes of ternary codes: four codes each; dense with five; dense with four and 1 as the fifth."""

    codes: NDArray[np.uint8]
    fives: NDArray[np.uint8]
    fours: NDArray[np.uint8]

    @classmethod
    def of(cls, fields: NDArray[np.uint8], rng: np.random.Generator) -> Self:
        """Pack the four rows of ``fields``."""
        fifth = _CODES[rng.integers(0, _CODES.size, size=fields.shape[1], dtype=np.uint8)]
        four = np.array([1, 3, 9, 27], dtype=np.int32) @ fields.astype(np.int32)
        codes = fields[0] | fields[1] << 2 | fields[2] << 4 | fields[3] << 6
        return cls(codes, _dense(four + 81 * fifth.astype(np.int32)), _dense(four + 81))


def _dense(value: NDArray[np.int32]) -> NDArray[np.uint8]:
    return ((256 * value + 242) // 243).astype(np.uint8)


def _ternary_chunks(tiles: _Tiles, spec: TensorSpec, rng: np.random.Generator) -> Iterator[memoryview]:
    """Random codes; outputs and inputs beyond the shape are weight 0 (code 1), as the layouts demand."""
    if spec.layout is Layout.T2_ROWS:
        padding = _padding_of(spec.k, units=(spec.k + 255) // 256, width=64)
        yield from _runs(tiles.codes, spec.n, padding, rng)
    elif spec.layout is Layout.T2_COLS:
        padding = _padding_of(spec.n, units=(spec.n + 63) // 64, width=16)
        yield from _runs(tiles.codes, spec.k, padding, rng)
        yield np.full((-spec.k % 64) * padding.size, 0x55, dtype=np.uint8).data
    else:
        yield from _panels(tiles, spec, rng)


def _padding_of(size: int, *, units: int, width: int) -> NDArray[np.uint8]:
    """Return the bits of padding in a run of units of ``width`` bytes, whose field f holds ``width`` elements from f * ``width`` on."""
    element = np.arange(units * 4 * width).reshape(units, 4, width)
    bits = np.where(element >= size, np.uint8(3), np.uint8(0)) << np.array([[0], [2], [4], [6]], dtype=np.uint8)
    padding: NDArray[np.uint8] = np.bitwise_or.reduce(bits, axis=1).reshape(-1)
    return padding


def _runs(
    tile: NDArray[np.uint8], count: int, padding: NDArray[np.uint8], rng: np.random.Generator
) -> Iterator[memoryview]:
    if not padding.any():
        for piece in _tiled(tile, count * padding.size, rng):
            yield piece.data
        return
    for _ in range(count):
        run = np.concatenate(list(_tiled(tile, padding.size, rng)))
        yield (run & ~padding | padding & np.uint8(0x55)).data


def _panels(tiles: _Tiles, spec: TensorSpec, rng: np.random.Generator) -> Iterator[memoryview]:
    dense = spec.layout is Layout.T5_P64G4
    pad_k, groups = -spec.k % 64, (spec.k + 63) // 64 * 16
    panel_bytes = groups * 64
    full_panels = spec.n // 64 if pad_k == 0 else 0
    if dense:
        for _ in range(full_panels):
            for piece in (*_tiled(tiles.fives, groups // 5 * 256, rng), *_tiled(tiles.fours, groups % 5 * 64, rng)):
                yield piece.data
    else:
        for piece in _tiled(tiles.codes, full_panels * panel_bytes, rng):
            yield piece.data
    for first in range(full_panels * 64, spec.n, 64):
        panel = np.concatenate(list(_tiled(tiles.codes, panel_bytes, rng))).reshape(groups, 16, 4)
        inputs = (4 * np.arange(groups)[:, None, None] + np.arange(4)) >= spec.k
        for field in range(4):
            outputs = (first + 16 * field + np.arange(16))[None, :, None] >= spec.n
            mask = np.uint8(3 << 2 * field)
            panel = np.where(inputs | outputs, panel & ~mask | np.uint8(1 << 2 * field), panel)
        packed = np.ascontiguousarray(panel)
        yield pack_dense(packed.reshape(-1), 64, spec.k).data if dense else packed.data


def _plane_chunks(tile: NDArray[np.uint8], spec: TensorSpec, rng: np.random.Generator) -> Iterator[memoryview]:
    """Random int16 rows as two byte planes; the high plane within 127 so that a weight stays in the format's range."""
    groups, panels = (spec.k + 63) // 64 * 16, (spec.n + 15) // 16
    for plane in range(2):
        full = spec.n // 16 if spec.k % 64 == 0 else 0
        for piece in _tiled(tile, full * groups * 64, rng):
            yield _plane(piece, plane)
        for first in range(full * 16, panels * 16, 16):
            panel = np.concatenate(list(_tiled(tile, groups * 64, rng))).reshape(groups, 16, 4)
            rows = (first + np.arange(16))[None, :, None] >= spec.n
            inputs = (4 * np.arange(groups)[:, None, None] + np.arange(4)) >= spec.k
            yield _plane(np.where(rows | inputs, np.uint8(0), panel).reshape(-1), plane)


def _plane(piece: NDArray[np.uint8], plane: int) -> memoryview:
    # An arithmetic shift keeps 0 at 0 and the high digits small: |e| <= 64 * 256 + 128.
    high = np.right_shift(piece.view(np.int8), 1) if plane == 0 else piece
    return np.ascontiguousarray(high).data

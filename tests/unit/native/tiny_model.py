"""A random tiny model: as numpy (for the oracle) and as the file and table that libtrit opens."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy_model import Layer, NumpyModel, TernaryLinear, rope_tables

from tritserve.isa import Isa
from tritserve.native.lib import KvPool, Model, Session
from tritserve.native.packing import (
    LAYOUT_F32,
    LAYOUT_I8,
    LAYOUT_I16_P16G4,
    LAYOUT_T2_COLS,
    LAYOUT_T2_P64G4,
    LAYOUT_T2_ROWS,
    layout_bytes,
    pack_head,
    pack_ternary,
)
from tritserve.native.types import Arch, Choice, Output, StepBatch, TensorEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

THETA = 10000.0
SMALL = Arch(
    hidden=72,
    intermediate=132,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=18,
    vocab=203,
    max_positions=256,
    activation=0,
    sub_norms=True,
    norm_eps=1e-5,
)
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
LAYOUTS = {"up": LAYOUT_T2_ROWS, "down": LAYOUT_T2_COLS}
KINDS = {name: kind for kind, name in enumerate(LINEARS)}


@dataclass(frozen=True)
class TinyModel:
    """``payload`` is the file; ``numpy`` the same weights for the oracle."""

    arch: Arch
    tensors: list[TensorEntry]
    payload: bytes
    numpy: NumpyModel

    @contextmanager
    def file(self) -> Iterator[int]:
        """Yield a descriptor of the file."""
        fd = os.memfd_create("tiny-model")
        try:
            os.write(fd, self.payload)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def open(self, isa: Isa = Isa.AUTO) -> Iterator[Model]:
        """Yield the opened model."""
        with self.file() as fd, Model(fd, self.arch, self.tensors, isa=isa) as model:
            yield model

    @contextmanager
    def session(
        self, *, isa: Isa = Isa.AUTO, n_threads: int = 2, n_blocks: int = 64
    ) -> Iterator[tuple[Session, KvPool]]:
        """Yield a session with a fresh pool."""
        with (
            self.open(isa) as model,
            kv_memory(model, n_blocks) as fd,
            KvPool(model, fd, n_blocks) as kv,
            Session(model, kv, n_threads=n_threads, max_rows=256, max_seqs=16, max_outputs=256) as session,
        ):
            yield session, kv


@contextmanager
def kv_memory(model: Model, n_blocks: int) -> Iterator[int]:
    """Yield a memfd large enough for ``n_blocks``."""
    fd = os.memfd_create("tiny-kv")
    try:
        os.ftruncate(fd, model.kv_region_bytes(n_blocks))
        yield fd
    finally:
        os.close(fd)


def all_logits(session: Session, token_ids: Sequence[int], blocks: Sequence[int], vocab: int) -> NDArray[np.float32]:
    """Run one sequence from position 0 in one step; return (tokens, vocab)."""
    n = len(token_ids)
    logits = np.empty((n, vocab), dtype=np.float32)
    session.step(batch_of([(token_ids, 0, blocks)], [Output(row=i) for i in range(n)]), logits)
    return logits


def batch_of(seqs: Sequence[tuple[Sequence[int], int, Sequence[int]]], outputs: Sequence[Output]) -> StepBatch:
    """Make a batch of (token ids, start position, blocks) per sequence."""
    width = max(len(blocks) for _, _, blocks in seqs)
    tables = np.zeros((len(seqs), width), dtype=np.int32)
    for row, (_, _, blocks) in zip(tables, seqs, strict=True):
        row[: len(blocks)] = blocks
    return StepBatch(
        token_ids=np.array([t for ids, _, _ in seqs for t in ids], dtype=np.int32),
        cu_rows=np.cumsum([0, *(len(ids) for ids, _, _ in seqs)], dtype=np.int32),
        start_pos=np.array([start for _, start, _ in seqs], dtype=np.int32),
        block_tables=tables,
        outputs=outputs,
    )


def tokens(choices: Sequence[Choice]) -> list[int]:
    """Return the chosen ids."""
    return [choice.token for choice in choices]


def make_tiny_model(arch: Arch = SMALL, *, seed: int = 7, tied: bool = True) -> TinyModel:
    """Draw weights and lay them out."""
    rng = np.random.default_rng(seed)
    heads, kv = arch.n_heads * arch.head_dim, arch.n_kv_heads * arch.head_dim
    shapes = {
        "q": (heads, arch.hidden),
        "k": (kv, arch.hidden),
        "v": (kv, arch.hidden),
        "o": (arch.hidden, heads),
        "gate": (arch.intermediate, arch.hidden),
        "up": (arch.intermediate, arch.hidden),
        "down": (arch.hidden, arch.intermediate),
    }
    layers = [_draw_layer(rng, arch, shapes, heads) for _ in range(arch.n_layers)]
    embedding = rng.normal(0, 1, (arch.vocab, arch.hidden)).astype(np.float32)
    head = embedding if tied else rng.normal(0, 1, (arch.vocab, arch.hidden)).astype(np.float32)
    model = NumpyModel(
        n_heads=arch.n_heads,
        n_kv_heads=arch.n_kv_heads,
        head_dim=arch.head_dim,
        rope_theta=THETA,
        norm_eps=arch.norm_eps,
        activation="silu" if arch.activation else "relu2",
        layers=layers,
        norm=_norm(rng, arch.hidden),
        embedding=embedding,
        head=head,
    )
    tensors, payload = _lay_out(arch, model, tied=tied)
    return TinyModel(arch, tensors, payload, model)


def _norm(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.uniform(0.5, 1.5, n).astype(np.float32)


def _draw_layer(rng: np.random.Generator, arch: Arch, shapes: dict[str, tuple[int, int]], heads: int) -> Layer:
    linears = {
        name: TernaryLinear(rng.integers(-1, 2, shape).astype(np.int8), float(np.float32(rng.uniform(0.05, 0.2))))
        for name, shape in shapes.items()
    }
    return Layer(
        **linears,
        input_layernorm=_norm(rng, arch.hidden),
        post_attention_layernorm=_norm(rng, arch.hidden),
        attn_sub_norm=_norm(rng, heads) if arch.sub_norms else None,
        ffn_sub_norm=_norm(rng, arch.intermediate) if arch.sub_norms else None,
    )


def _lay_out(arch: Arch, model: NumpyModel, *, tied: bool) -> tuple[list[TensorEntry], bytes]:
    payload = bytearray(64)
    tensors: list[TensorEntry] = []

    def add(
        kind: int, layer: int, layout: int, shape: tuple[int, int], content: NDArray[Any], scale: float = 1.0
    ) -> None:
        raw = content.tobytes()
        assert len(raw) == layout_bytes(layout, *shape)
        n, k = shape
        entry = TensorEntry(
            kind=kind,
            layer=layer,
            layout=layout,
            layout_version=1,
            n=n,
            k=k,
            offset=len(payload),
            bytes=len(raw),
            scale=scale,
        )
        tensors.append(entry)
        payload.extend(raw)
        payload.extend(bytes(-len(payload) % 64))

    def add_floats(kind: int, layer: int, values: NDArray[np.float32]) -> None:
        add(kind, layer, LAYOUT_F32, (values.shape[0], values.shape[1] if values.ndim == 2 else 1), values)

    def add_planes(kind: int, weights: NDArray[np.float32]) -> None:
        n, k = weights.shape
        packed = np.empty(layout_bytes(LAYOUT_I16_P16G4, n, k), dtype=np.uint8)
        shift = np.empty(n, dtype=np.int8)
        pack_head(weights, 0, (n, k), packed, shift)
        add(kind, -1, LAYOUT_I16_P16G4, (n, k), packed)
        add(kind + 1, -1, LAYOUT_I8, (n, 1), shift)

    for at, layer in enumerate(model.layers):
        for name, kind in KINDS.items():
            linear: TernaryLinear = getattr(layer, name)
            n, k = linear.codes.shape
            layout = LAYOUTS.get(name, LAYOUT_T2_P64G4)
            add(kind, at, layout, (n, k), pack_ternary(linear.codes, layout), linear.scale)
        add_floats(7, at, layer.input_layernorm)
        add_floats(9, at, layer.post_attention_layernorm)
        if layer.attn_sub_norm is not None and layer.ffn_sub_norm is not None:
            add_floats(8, at, layer.attn_sub_norm)
            add_floats(10, at, layer.ffn_sub_norm)
    add_floats(11, -1, model.norm)
    add_planes(12, model.embedding)
    if not tied:
        add_planes(14, model.head)
    for kind, table in zip((16, 17), rope_tables(arch.max_positions, arch.head_dim, THETA), strict=True):
        add_floats(kind, -1, table.astype(np.float32))
    return tensors, bytes(payload)


def tokens_of(turn: int, block: int) -> list[int]:
    """Return the tokens that the kill test writes into a block in one turn."""
    return np.random.default_rng([turn, block]).integers(0, SMALL.vocab, 16).tolist()


def chain_hash(turn: int, block: int) -> bytes:
    """Return the name they are committed under, from which turn and block can be read."""
    return turn.to_bytes(16, "little") + block.to_bytes(16, "little")

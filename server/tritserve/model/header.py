"""The description inside a packed model file (``.trit``): its typed JSON header, and what a whole tensor table must hold.

Read by the front too, so nothing here imports numpy or the native library. ``Architecture`` and ``Tensor`` carry the fields
of ``trit_arch`` and ``trit_tensor`` (native/include/trit/trit.h) under the same names.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONVERTER_VERSION = 2
"""Part of the cache key: raise it whenever the same checkpoint would give other bytes."""
NUM_KNOWN_TOKENS = 8
ALIGNMENT = 64
MAX_TENSORS = 65_536


class Activation(IntEnum):
    """What the gate goes through; values of ``trit_activation``."""

    RELU2 = 0
    SILU = 1


class TensorKind(IntEnum):
    """Values of ``trit_tensor_kind``."""

    Q = 0
    K = 1
    V = 2
    O = 3  # noqa: E741 - the field's name of the output projection
    GATE = 4
    UP = 5
    DOWN = 6
    NORM_ATTN = 7
    NORM_ATTN_SUB = 8
    NORM_FFN = 9
    NORM_FFN_SUB = 10
    NORM_FINAL = 11
    EMBED = 12
    EMBED_SHIFT = 13
    HEAD = 14
    HEAD_SHIFT = 15
    ROPE_COS = 16
    ROPE_SIN = 17


TERNARY_KINDS = frozenset(TensorKind(kind) for kind in range(TensorKind.DOWN + 1))


class Layout(IntEnum):
    """Values of ``trit_layout``; docs in trit.h."""

    F32 = 1
    I8 = 2
    T2_P64G4 = 3
    I16_P16G4 = 4
    T5_P64G4 = 5
    T2_ROWS = 6
    T2_COLS = 7


Packing = Literal["fast", "skip", "dense"]
"""How ternary weights lie: in panels, four in a byte; so that what squared ReLU makes needless can be left out; or five in a byte."""
WeightsName = Literal["auto", "fast", "skip", "dense"]
"""How ternary weights are packed: four in a byte, five, or whichever suits (model/weights.py)."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Size = Annotated[int, Meta(ge=0, lt=2**62)]
# The library's own bounds (native/src/packed_file.c).
MAX_WIDTH = 131_072
_Width = Annotated[int, Meta(ge=4, le=MAX_WIDTH, multiple_of=4)]
_Count = Annotated[int, Meta(ge=1, le=1024)]
_HeadDim = Annotated[int, Meta(ge=2, le=256, multiple_of=2)]
_Vocab = Annotated[int, Meta(ge=1, le=2**24)]
_Positions = Annotated[int, Meta(ge=1, le=2**20)]
_Eps = Annotated[float, Meta(ge=1e-30, le=1.0)]


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dimensions of a model: the fields of ``trit_arch``."""

    hidden: _Width
    intermediate: _Width
    n_layers: _Count
    n_heads: _Count
    n_kv_heads: _Count
    head_dim: _HeadDim
    vocab: _Vocab
    max_positions: _Positions
    activation: Activation
    sub_norms: bool
    norm_eps: _Eps


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the tensor table: the fields of ``trit_tensor``, its name in the checkpoint and its payload's checksum."""

    name: Annotated[str, Meta(max_length=256)]
    kind: TensorKind
    layer: Annotated[int, Meta(ge=-1, lt=1024)]
    layout: Layout
    layout_version: Annotated[int, Meta(ge=0, lt=2**31)] = 1
    n: Annotated[int, Meta(ge=1, lt=2**31)]
    k: Annotated[int, Meta(ge=1, lt=2**31)]
    offset: Size
    bytes: Size
    scale: float = 1.0
    sha256: Sha256


class Blob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A byte range of the file with its checksum."""

    offset: Size
    bytes: Size
    sha256: Sha256


class SpecialTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Special ids and texts. ``eos`` lists every id that ends a generation: config.json, generation_config.json and tokenizer_config.json
    together. ``add_bos`` is the tokenizer's own setting, None where it has none."""

    bos: TokenId | None = None
    eos: Annotated[list[TokenId], Meta(max_length=64)] = []
    pad: TokenId | None = None
    bos_text: str | None = None
    eos_text: str | None = None
    add_bos: bool | None = None


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What generation_config.json recommends; None where it says nothing."""

    do_sample: bool | None = None
    temperature: Annotated[float, Meta(ge=0.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0)] | None = None
    max_length: Annotated[int, Meta(ge=0, lt=2**31)] | None = None


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that the model was made from: its name without folder."""

    name: str
    bytes: Size
    sha256: Sha256


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights came from."""

    family: str
    source_format: str
    files: list[SourceFile] = []
    converter_version: int = CONVERTER_VERSION


class KnownAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Eight token ids run from position 0 as one sequence, and the SHA-256 of their logits as the plain C path gives them:
    (8, vocab) float32, little endian, row after row."""

    token_ids: Annotated[list[TokenId], Meta(min_length=NUM_KNOWN_TOKENS, max_length=NUM_KNOWN_TOKENS)]
    logits_sha256: Sha256


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole description. ``weights_sha256`` names the weights: ``weights_digest`` of architecture and tensors. ``tokenizer`` is
    None only in benchmark models."""

    architecture: Architecture
    tensors: Annotated[list[Tensor], Meta(max_length=MAX_TENSORS)]
    weights_sha256: Sha256
    tokenizer: Blob | None = None
    special_tokens: SpecialTokens = SpecialTokens()
    chat_template: str | None = None
    generation: GenerationDefaults = GenerationDefaults()
    config: dict[str, Any] = {}
    provenance: Provenance
    known_answer: KnownAnswer | None = None


def layout_bytes(layout: Layout, n: int, k: int) -> int:
    """Return the bytes of a (n, k) tensor, as ``trit_layout_bytes`` does."""
    if layout is Layout.F32:
        return 4 * n * k
    if layout is Layout.I8:
        return n * k
    if layout in (Layout.T2_P64G4, Layout.T2_COLS):
        return _round_up(n, 64) * _round_up(k, 64) // 4
    if layout is Layout.T5_P64G4:
        blocks, left_over = divmod(_round_up(k, 64) // 4, 5)
        return _round_up(n, 64) * (4 * blocks + left_over)
    if layout is Layout.T2_ROWS:
        return n * _round_up(k, 256) // 4
    return 2 * _round_up(n, 16) * _round_up(k, 64)


def weights_digest(architecture: Architecture, tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 that names a model's weights: dimensions and every tensor's identity, in table order, but not its place."""
    rows = [(t.kind, t.layer, t.layout, t.layout_version, t.n, t.k, t.scale, t.sha256) for t in tensors]
    return hashlib.sha256(msgspec.json.encode([architecture, rows])).hexdigest()


_SKIPPING = {TensorKind.UP: Layout.T2_ROWS, TensorKind.DOWN: Layout.T2_COLS}


def layout_fits(kind: TensorKind, layout: Layout) -> bool:
    """Tell whether the library reads a ternary tensor of this kind in this layout."""
    return kind in TERNARY_KINDS and layout in (Layout.T2_P64G4, Layout.T5_P64G4, _SKIPPING.get(kind))


class TensorSpec(NamedTuple):
    """What the table must hold once: kind, layer (-1: of the whole model), layout and shape (n outputs, k inputs)."""

    kind: TensorKind
    layer: int
    layout: Layout
    n: int
    k: int

    @property
    def bytes(self) -> int:
        """Bytes of the payload."""
        return layout_bytes(self.layout, self.n, self.k)


def expected_tensors(architecture: Architecture, *, tied_head: bool, packing: Packing = "fast") -> Iterator[TensorSpec]:
    """Yield every tensor that a model of these dimensions has, in file order, in the layout that conversion gives it.

    Squared ReLU leaves many rows of ``up`` and columns of ``down`` without effect: ``skip`` gives these layouts that such can be left out
    of, and is ``fast`` for models with another activation.
    """
    ternary = Layout.T5_P64G4 if packing == "dense" else Layout.T2_P64G4
    a, kind = architecture, TensorKind
    skips = a.activation is Activation.RELU2 and packing == "skip"
    q_size, kv_size = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    planes, f32 = Layout.I16_P16G4, Layout.F32
    yield TensorSpec(kind.EMBED, -1, planes, a.vocab, a.hidden)
    yield TensorSpec(kind.EMBED_SHIFT, -1, Layout.I8, a.vocab, 1)
    yield TensorSpec(kind.ROPE_COS, -1, f32, a.max_positions, a.head_dim // 2)
    yield TensorSpec(kind.ROPE_SIN, -1, f32, a.max_positions, a.head_dim // 2)
    for layer in range(a.n_layers):
        yield TensorSpec(kind.NORM_ATTN, layer, f32, a.hidden, 1)
        for part, n, k in (
            (kind.Q, q_size, a.hidden),
            (kind.K, kv_size, a.hidden),
            (kind.V, kv_size, a.hidden),
            (kind.O, a.hidden, q_size),
            (kind.GATE, a.intermediate, a.hidden),
            (kind.UP, a.intermediate, a.hidden),
            (kind.DOWN, a.hidden, a.intermediate),
        ):
            yield TensorSpec(part, layer, _SKIPPING.get(part, ternary) if skips else ternary, n, k)
        yield TensorSpec(kind.NORM_FFN, layer, f32, a.hidden, 1)
        if a.sub_norms:
            yield TensorSpec(kind.NORM_ATTN_SUB, layer, f32, q_size, 1)
            yield TensorSpec(kind.NORM_FFN_SUB, layer, f32, a.intermediate, 1)
    yield TensorSpec(kind.NORM_FINAL, -1, f32, a.hidden, 1)
    if not tied_head:
        yield TensorSpec(kind.HEAD, -1, planes, a.vocab, a.hidden)
        yield TensorSpec(kind.HEAD_SHIFT, -1, Layout.I8, a.vocab, 1)


def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step

"""Which packing a checkpoint is converted into: ``fast``, four ternary weights in a byte, ``skip``, the same in an order that what squared
ReLU makes needless can be left out of, or ``dense``, five in a byte.

Dense is a fifth smaller, but a weight costs more instructions: on AMD EPYC (Zen 3, AVX2) a step then is bound by arithmetic and slower
(docs/decisions/0009-dense-ternary-weights.md). So ``auto`` takes it only where the fast one would not fit. Skipping makes one sequence
faster, and several and prompts slower (docs/decisions/0013-skipping-zeros.md): it is chosen by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.model.header import expected_tensors
from tritserve.model.packed_writer import packed_file_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tritserve.model.header import Packing, WeightsName

ROOM_BYTES = 320 * 1024 * 1024
"""Needed beside the model: the smallest KV cache that serves, the front, a worker's own memory."""

_MORE_BYTES = 64 * 1024 * 1024
"""A packed model may have so much more than the weights' files: tokenizer, header, RoPE tables."""


def choose_packing(weights: WeightsName, source: Path, available_bytes: int) -> Packing:
    """Return how to convert the checkpoint folder ``source``. A packed file keeps its packing. Raises ModelFileError."""
    if weights != "auto":
        return weights
    if not source.is_dir():
        return "fast"
    # The packed model is hardly larger than the checkpoint it comes from: most need not be looked into.
    stored = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    if stored + _MORE_BYTES + ROOM_BYTES <= available_bytes:
        return "fast"
    return "dense" if fast_file_bytes(source) + ROOM_BYTES > available_bytes else "fast"


def fast_file_bytes(source: Path) -> int:
    """Return the size of the packed file that the checkpoint folder becomes, at most. Raises ModelFileError."""
    from tritserve.model.checkpoints.hf_config import read_description

    description = read_description(source)
    tied = description.config.get("tie_word_embeddings") is True
    return packed_file_bytes(expected_tensors(description.architecture, tied_head=tied), len(description.tokenizer))

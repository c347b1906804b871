"""The library's integer attention and integer head in plain numpy, written from docs/numerics.md alone; and bf16's, to compare with.

Only the rounding to integers is modelled: what stays float is done in float64, so results agree with the library's to about
1e-6, not to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy_model import NumpyModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerModel(NumpyModel):
    """A NumpyModel whose attention and head work in int16; so does the embedding, whose rows are the head's."""

    @classmethod
    def of(cls, model: NumpyModel) -> IntegerModel:
        """Return the integer twin of a model."""
        values = {field.name: getattr(model, field.name) for field in fields(model)}
        rows, shift = integer_rows(model.embedding)
        return cls(**values | {"embedding": np.ldexp(rows, -shift[:, None])})

    def _head(self, h: FloatArray) -> FloatArray:
        return integer_head(h, self.head)

    def _attend(self, q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
        return integer_attention(q, k, v)


def integer_attention(q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
    """Attention on int16 queries, keys, values and probabilities; shapes as ``numpy_model.attention``."""
    n, n_heads, head_dim = q.shape
    (q, q_scale), (k, k_scale) = _by_norm(q), _by_norm(k)
    largest = np.maximum(np.abs(v).max(axis=-1, keepdims=True), 1e-20)
    v, v_scale = np.clip(np.rint(v * (32767.0 / largest)), -32767, 32767), largest[..., 0] / 32767.0
    out = np.empty_like(q)
    for head in range(n_heads):
        kv = head // (n_heads // k.shape[1])
        peak, total, mixed = np.full(n, -np.inf), np.zeros(n), np.zeros((n, head_dim))
        for start in range(0, n, CHUNK):
            end = min(start + CHUNK, n)
            rows = slice(start, n)  # earlier queries see nothing of this chunk
            valid = np.arange(start, end)[None, :] <= np.arange(start, n)[:, None]
            scores = (q[rows, head] @ k[start:end, kv].T) * (k_scale[start:end, kv] / np.sqrt(head_dim))
            scores = np.where(valid, scores * q_scale[rows, head, None], -np.inf)
            chunk_peak = scores.max(axis=1)
            e = np.exp(scores - chunk_peak[:, None])
            w = e * v_scale[start:end, kv]
            weight = np.maximum(w.sum(axis=1, keepdims=True), 1e-30)
            chunk = np.rint(w * (32704.0 / weight)) @ v[start:end, kv] * (weight / 32704.0)
            new_peak = np.maximum(peak[rows], chunk_peak)
            old, new = np.exp(peak[rows] - new_peak), np.exp(chunk_peak - new_peak)
            total[rows] = total[rows] * old + e.sum(axis=1) * new
            mixed[rows] = mixed[rows] * old[:, None] + chunk * new[:, None]
            peak[rows] = new_peak
        out[:, head] = mixed / total[:, None]
    return out


def bf16_attention(q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
    """Attention as GPUs do it in bf16: inputs and probabilities rounded, sums exact, the result rounded."""
    n, n_heads, head_dim = q.shape
    q, k, v = bf16(q), bf16(k), bf16(v)
    out = np.empty_like(q)
    future = np.triu(np.ones((n, n), dtype=bool), 1)
    for head in range(n_heads):
        kv = head // (n_heads // k.shape[1])
        scores = np.where(future, -np.inf, q[:, head] @ k[:, kv].T / np.sqrt(head_dim))
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = bf16(bf16(e) @ v[:, kv] / e.sum(axis=1, keepdims=True))
    return out


def integer_head(h: FloatArray, head: NDArray[np.float32]) -> FloatArray:
    """Logits (tokens, vocab) of int16 hidden rows and int16 vocabulary rows with a power-of-two scale each."""
    largest = np.maximum(np.abs(h).max(axis=1, keepdims=True), 1e-30)
    hidden = np.rint(h * (32512.0 / largest))
    rows, shift = integer_rows(head)
    return np.ldexp((hidden @ rows.T) * (largest / 32512.0), -shift)


def integer_rows(weights: NDArray[np.float32]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the int16 of vocabulary rows and each row's shift: the largest that keeps it within 32,512."""
    wide = weights.astype(np.float64)
    peak = np.abs(wide).max(axis=1)
    shift = np.zeros(len(peak), dtype=np.int64)
    shift[peak > 0] = np.floor(np.log2(32512.5 / peak[peak > 0])).astype(np.int64)
    shift -= np.rint(np.ldexp(peak, shift)) > 32512
    return np.rint(np.ldexp(wide, shift[:, None])), shift


def bf16_head(h: FloatArray, head: NDArray[np.float32]) -> FloatArray:
    """Logits of bf16 rows, summed exactly, rounded to bf16."""
    return bf16(bf16(h) @ bf16(head.astype(np.float64)).T)


def bf16(values: FloatArray) -> FloatArray:
    """Round to 8 significant bits, half to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))
    return (bits.astype(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def _by_norm(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    norm = np.maximum(np.sqrt((x * x).sum(axis=-1)), 1e-20)
    return np.rint(x * (32000.0 / norm)[..., None]), norm / 32000.0

"""The forward pass of a BitNet b1.58 model in plain numpy, written from the model's description alone.

An independent reading to compare the C library with: float64 softmax over whole rows, float RMSNorm, absmax int8 activations
per row, ternary codes as float matrices. Nothing of the library's number formats (integer attention, int16 head, chunks) is here, so
agreement is within a tolerance that those formats justify, not to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TernaryLinear:
    """``codes`` (out, in) in {-1, 0, 1}; ``scale``: multiply by it."""

    codes: NDArray[np.int8]
    scale: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; the sub-norms are None in a model without them."""

    q: TernaryLinear
    k: TernaryLinear
    v: TernaryLinear
    o: TernaryLinear
    gate: TernaryLinear
    up: TernaryLinear
    down: TernaryLinear
    input_layernorm: NDArray[np.float32]
    post_attention_layernorm: NDArray[np.float32]
    attn_sub_norm: NDArray[np.float32] | None
    ffn_sub_norm: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyModel:
    """A whole model; ``head`` is the embedding when tied."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    activation: str
    layers: list[Layer]
    norm: NDArray[np.float32]
    embedding: NDArray[np.float32]
    head: NDArray[np.float32]

    def logits(self, token_ids: list[int]) -> FloatArray:
        """Return (tokens, vocab): the logits after each token of one sequence from position 0."""
        x = self.embedding[token_ids].astype(np.float64)
        for layer in self.layers:
            x = x + self._attention(layer, rms_norm(x, layer.input_layernorm, self.norm_eps))
            x = x + self._ffn(layer, rms_norm(x, layer.post_attention_layernorm, self.norm_eps))
        return self._head(rms_norm(x, self.norm, self.norm_eps))

    def _head(self, h: FloatArray) -> FloatArray:
        return h @ self.head.T.astype(np.float64)

    def _attend(self, q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
        return attention(q, k, v)

    def _attention(self, layer: Layer, h: FloatArray) -> FloatArray:
        n = h.shape[0]
        q = rotate(bit_linear(layer.q, h).reshape(n, self.n_heads, self.head_dim), self.rope_theta)
        k = rotate(bit_linear(layer.k, h).reshape(n, self.n_kv_heads, self.head_dim), self.rope_theta)
        v = bit_linear(layer.v, h).reshape(n, self.n_kv_heads, self.head_dim)
        a = self._attend(q, k, v).reshape(n, -1)
        if layer.attn_sub_norm is not None:
            a = rms_norm(a, layer.attn_sub_norm, self.norm_eps)
        return bit_linear(layer.o, a)

    def _ffn(self, layer: Layer, h: FloatArray) -> FloatArray:
        gate, up = bit_linear(layer.gate, h), bit_linear(layer.up, h)
        act = np.maximum(gate, 0.0) ** 2 if self.activation == "relu2" else gate / (1.0 + np.exp(-gate))
        m = act * up
        if layer.ffn_sub_norm is not None:
            m = rms_norm(m, layer.ffn_sub_norm, self.norm_eps)
        return bit_linear(layer.down, m)


def attention(q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
    """Causal grouped-query attention: (tokens, heads, head_dim) and twice (tokens, kv heads, head_dim) to (tokens, heads, head_dim)."""
    n, n_heads, head_dim = q.shape
    out = np.empty_like(q)
    future = np.triu(np.ones((n, n), dtype=bool), 1)
    for head in range(n_heads):
        kv_head = head // (n_heads // k.shape[1])
        scores = q[:, head] @ k[:, kv_head].T / np.sqrt(head_dim)
        out[:, head] = softmax(np.where(future, -np.inf, scores)) @ v[:, kv_head]
    return out


def rms_norm(x: FloatArray, weight: NDArray[np.float32], eps: float) -> FloatArray:
    """Scale each row to a root mean square of 1, then by ``weight``."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def bit_linear(linear: TernaryLinear, x: FloatArray) -> FloatArray:
    """Quantise rows to int8 by their absmax, multiply by the codes, scale back."""
    s = 127.0 / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5)
    x_q = np.clip(np.rint(x * s), -128, 127)
    return (x_q @ linear.codes.T.astype(np.float64)) / s * linear.scale


def rope_tables(n: int, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Return cos and sin, each (n, head_dim / 2)."""
    angle = np.arange(n)[:, None] * theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    return np.cos(angle), np.sin(angle)


def rotate(x: FloatArray, theta: float) -> FloatArray:
    """Apply RoPE, half-split, to (tokens, heads, head_dim) at positions 0, 1, ..."""
    cos, sin = (table[:, None, :] for table in rope_tables(x.shape[0], x.shape[-1], theta))
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(scores: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

"""The BitNet b1.58 graph in torch, with the arithmetic of the inference engine.

Forward of every BitLinear: int8 activations times ternary codes, both held in float32 (exact, since
the sums stay far below 2^24), then divided by the activation scale and multiplied by the
weight scale. Backward: the straight-through estimator for both roundings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from tritserve.demo.config import ModelConfig

SCALE_FLOOR = 1e-5


def ternarise(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise one tensor by absmean: (N, K) -> codes in {-1, 0, 1} (N, K) and m, a scalar.

    Wang et al. 2023 and Ma et al. 2024 (BitNet b1.58), section 2.
    """
    m = latent.abs().mean().clamp(min=SCALE_FLOOR)
    return (latent / m).round().clamp(-1, 1), m


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise activations by absmax per row: (M, K) -> int8 values as float (M, K), s (M, 1)."""
    s = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=SCALE_FLOOR)
    return (x * s).round().clamp(-128, 127), s


def bf16_rounded(x: Tensor) -> Tensor:
    """Round to bfloat16 and back: the precision of the exported checkpoint."""
    return x.to(torch.bfloat16).to(torch.float32)


class _TernaryMatmul(torch.autograd.Function):
    """y = (x_q @ codes^T) / s * w_scale with straight-through gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, latent: Tensor, codes: Tensor, w_scale: Tensor) -> Tensor:
        x_q, s = quantise_rows(x)
        ctx.save_for_backward(x_q, s, codes, w_scale)
        return (x_q @ codes.t()) / s * w_scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        x_q, s, codes, w_scale = ctx.saved_tensors
        grad_x = (grads[0] * w_scale) @ codes
        grad_latent = (grads[0] / s).t() @ x_q
        return grad_x, grad_latent, None, None


class BitLinear(nn.Module):
    """Ternary linear layers that share their input, fused: (M, K) -> (M, sum of outs).

    Each part keeps its own absmean scale, as separate tensors in the checkpoint do.
    """

    def __init__(self, in_features: int, outs: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.outs = outs
        std = 1.0 / math.sqrt(in_features)
        self.latent = nn.Parameter(torch.randn(sum(outs), in_features, generator=generator) * std)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all parts to x (M, K)."""
        parts = [ternarise(part) for part in torch.split(self.latent.detach(), list(self.outs))]
        codes = torch.cat([part for part, _ in parts])
        w_scale = torch.cat([bf16_rounded(m).expand(out) for (_, m), out in zip(parts, self.outs, strict=True)])
        y: Tensor = _TernaryMatmul.apply(x, self.latent, codes, w_scale)  # type: ignore[no-untyped-call]  # torch: untyped
        return y


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, with a weight and no bias."""

    def __init__(self, width: int, eps: float, initial: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., width)."""
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight


def rope_tables(num_positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (positions, head_dim / 2) float32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angle = torch.outer(torch.arange(num_positions, dtype=torch.float32), theta**-exponent)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply half-split RoPE to x (B, T, heads, head_dim); cos and sin are (T, 1, head_dim / 2)."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Layer(nn.Module):
    """One decoder layer: attention and squared-ReLU feed-forward, each with its sub-norm."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        width, ffn, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        self.config = config
        # The sub-norms start small so that early in training the residual stream carries the
        # embedding and not the noise of untrained layers.
        self.input_layernorm = RMSNorm(width, eps)
        self.qkv = BitLinear(width, (width, config.kv_size, config.kv_size), generator)
        self.attn_sub_norm = RMSNorm(width, eps, 0.1)
        self.o = BitLinear(width, (width,), generator)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.gate_up = BitLinear(width, (ffn, ffn), generator)
        self.ffn_sub_norm = RMSNorm(ffn, eps, 0.1)
        self.down = BitLinear(ffn, (width,), generator)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, rows: int) -> Tensor:
        """Map the residual stream x (rows * T, hidden) to the next layer's."""
        c = self.config
        heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
        qkv = self.qkv(self.input_layernorm(x)).view(rows, -1, heads + 2 * kv_heads, c.head_dim)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = heads // kv_heads
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.o(self.attn_sub_norm(mixed.transpose(1, 2).reshape(x.shape)))
        gate, up = self.gate_up(self.post_attention_layernorm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(self.ffn_sub_norm(F.relu(gate).square() * up))
        return out


class BitNet(nn.Module):
    """The whole model, with latent float32 weights and a tied embedding."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        table = torch.randn(config.vocab_size, config.hidden_size, generator=generator)
        self.embed_tokens = nn.Parameter(table * 0.05)
        self.layers = nn.ModuleList(Layer(config, generator) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        cos, sin = rope_tables(config.max_position_embeddings, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos.unsqueeze(1), persistent=False)
        self.register_buffer("sin", sin.unsqueeze(1), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (B, T) to logits (B * T, vocab)."""
        rows, length = tokens.shape
        x = F.embedding(tokens.reshape(-1), self.embed_tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length], rows)
        return F.linear(self.norm(x), self.embed_tokens)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy in nats; targets (B, T) hold -100 where none counts."""
        logits = self(tokens)
        return F.cross_entropy(logits, targets.reshape(-1), ignore_index=-100, reduction="sum")

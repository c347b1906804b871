"""Write a GGUF of a shape with random ternary weights, as TQ2_0 or Q4_0, for the rival. Needs the `gguf` package (extra `benchmarks`)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import gguf
except ImportError:
    sys.exit("writing the rival's model needs the gguf package: pip install 'tritserve[benchmarks]' (or gguf)")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tritserve.model.shapes import Shape

TYPES = ("TQ2_0", "Q4_0")
HEAD_TYPE = "Q6_K"
"""What llama-quantize gives a tied embedding beside either type; 6.6 bits a weight, read whole for every row of logits."""
_POOL_BLOCKS = 1 << 15
_SCALE = np.float16(0.02)
_ZERO_SHARE = 3 / 7
"""As tritserve's own random models have."""


def write_model(path: Path, shape: Shape, body_type: str) -> None:
    """Write the model to a temporary name beside ``path`` and rename it. The graph is llama.cpp's `bitnet`: Llama's with sub-norms."""
    a = shape.architecture
    rng = np.random.default_rng(0)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    writer = gguf.GGUFWriter(partial, "bitnet")
    writer.add_name(f"random {body_type}")
    writer.add_vocab_size(a.vocab)
    writer.add_context_length(a.max_positions)
    writer.add_embedding_length(a.hidden)
    writer.add_feed_forward_length(a.intermediate)
    writer.add_block_count(a.n_layers)
    writer.add_head_count(a.n_heads)
    writer.add_head_count_kv(a.n_kv_heads)
    writer.add_rope_dimension_count(a.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(a.norm_eps)
    writer.add_tokenizer_model("no_vocab")
    tensors = list(_tensors(shape, body_type))
    for name, quantization, shape_of_it in tensors:
        block, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
        stored = (*shape_of_it[:-1], shape_of_it[-1] // block * block_bytes)
        count = int(np.prod(stored))
        if quantization is gguf.GGMLQuantizationType.F32:
            writer.add_tensor_info(name, shape_of_it, np.dtype(np.float32), count, quantization)
        else:
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), count, quantization)
    pools = {kind: _pool(kind, rng) for _, kind, _ in tensors if kind is not gguf.GGMLQuantizationType.F32}
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, quantization, shape_of_it in tensors:
            if quantization is gguf.GGMLQuantizationType.F32:
                writer.write_tensor_data(rng.uniform(0.5, 1.5, shape_of_it).astype(np.float32))
            else:
                block, _ = gguf.GGML_QUANT_SIZES[quantization]
                chosen = rng.integers(0, _POOL_BLOCKS, int(np.prod(shape_of_it)) // block)
                writer.write_tensor_data(pools[quantization][chosen].reshape(-1))
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _tensors(shape: Shape, body_type: str) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield name, type and (rows, columns) of every tensor."""
    a = shape.architecture
    body, head = gguf.GGMLQuantizationType[body_type], gguf.GGMLQuantizationType[HEAD_TYPE]
    norm = gguf.GGMLQuantizationType.F32
    heads, kv = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    yield "token_embd.weight", head, (a.vocab, a.hidden)
    yield "output_norm.weight", norm, (a.hidden,)
    for layer in range(a.n_layers):
        sizes = {
            "attn_q": (heads, a.hidden),
            "attn_k": (kv, a.hidden),
            "attn_v": (kv, a.hidden),
            "attn_output": (a.hidden, heads),
            "ffn_gate": (a.intermediate, a.hidden),
            "ffn_up": (a.intermediate, a.hidden),
            "ffn_down": (a.hidden, a.intermediate),
        }
        for name, size in sizes.items():
            yield f"blk.{layer}.{name}.weight", body, size
        for name, width in (
            ("attn_norm", a.hidden),
            ("attn_sub_norm", heads),
            ("ffn_norm", a.hidden),
            ("ffn_sub_norm", a.intermediate),
        ):
            yield f"blk.{layer}.{name}.weight", norm, (width,)


def _pool(quantization: Any, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return random blocks (num_blocks, block_bytes) to draw tensors from; checked by gguf's own reading of them."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
    if quantization is gguf.GGMLQuantizationType[HEAD_TYPE]:
        blocks = rng.integers(0, 256, (_POOL_BLOCKS, block_bytes), dtype=np.uint8)
        blocks[:, -2:] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)  # the float16 scale of a block is its end
        return blocks
    signs = rng.integers(0, 2, (_POOL_BLOCKS, block)) * 2 - 1
    weights = np.where(rng.random((_POOL_BLOCKS, block)) < _ZERO_SHARE, 0, signs).astype(np.float32) * np.float32(
        _SCALE
    )
    blocks = gguf.quants.quantize(weights, quantization)
    read_back = gguf.quants.dequantize(blocks[:64], quantization)
    if not np.allclose(read_back, weights[:64], rtol=0.13, atol=0):  # Q4_0 holds -8..7 steps: +1 comes back as 7/8
        sys.exit(f"gguf reads other weights from {quantization.name} than were written")
    return np.ascontiguousarray(blocks)

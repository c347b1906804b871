"""Write and read the packed Hugging Face checkpoint of a trained model.

Names, shapes and keys are those of the packed BitNet b1.58 2B4T repository: uint8 codes (see
``packing``), ``weight_scale`` the absmean itself, bfloat16 embedding and norms, tied head.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tritserve.demo.config import BEGIN_OF_TEXT, END_OF_TEXT, ModelConfig
from tritserve.demo.network import BitNet, quantise_rows, ternarise
from tritserve.demo.packing import pack_codes, unpack_codes

if TYPE_CHECKING:
    from pathlib import Path

# (attribute of a layer, checkpoint names of its parts)
_LINEARS = (
    ("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("o", ("self_attn.o_proj",)),
    ("gate_up", ("mlp.gate_proj", "mlp.up_proj")),
    ("down", ("mlp.down_proj",)),
)
_NORMS = (
    ("input_layernorm", "input_layernorm"),
    ("post_attention_layernorm", "post_attention_layernorm"),
    ("attn_sub_norm", "self_attn.attn_sub_norm"),
    ("ffn_sub_norm", "mlp.ffn_sub_norm"),
)


def checkpoint_config(config: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["BitNetForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.token_id(BEGIN_OF_TEXT),
        "eos_token_id": config.token_id(END_OF_TEXT),
        "head_dim": config.head_dim,
        "hidden_act": "relu2",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "bitnet",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "quantization_config": {
            "linear_class": "autobitlinear",
            "quant_method": "bitnet",
            "quantization_mode": "offline",
        },
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def checkpoint_tensors(model: BitNet) -> dict[str, Tensor]:
    """Return the tensors of the packed checkpoint by name."""
    bf16 = torch.bfloat16
    tensors = {
        "model.embed_tokens.weight": model.embed_tokens.detach().to(bf16),
        "model.norm.weight": model.norm.weight.detach().to(bf16),
    }
    for index, layer in enumerate(model.layers):
        prefix = f"model.layers.{index}."
        for attribute, name in _NORMS:
            tensors[f"{prefix}{name}.weight"] = getattr(layer, attribute).weight.detach().to(bf16)
        for attribute, names in _LINEARS:
            linear = getattr(layer, attribute)
            parts = linear.latent.detach().split(linear.outs)
            for name, part in zip(names, parts, strict=True):
                codes, m = ternarise(part)
                tensors[f"{prefix}{name}.weight"] = torch.from_numpy(pack_codes(codes.to(torch.int8).numpy()))
                tensors[f"{prefix}{name}.weight_scale"] = m.to(bf16).view(1)
    return tensors


def export(model: BitNet, directory: Path) -> None:
    """Write config.json and model.safetensors, each replaced atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    config_path, weights_path = directory / "config.json", directory / "model.safetensors"
    partial = directory / "config.json.partial"
    text = json.dumps(checkpoint_config(model.config), indent=2, sort_keys=True)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, config_path)
    partial = directory / "model.safetensors.partial"
    save_file(checkpoint_tensors(model), partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # the writer makes it private
    os.replace(partial, weights_path)


class _StoredLinear(torch.nn.Module):
    """A BitLinear whose codes and scales come from a checkpoint: (M, K) -> (M, sum of outs)."""

    def __init__(self, codes: Tensor, w_scale: Tensor) -> None:
        super().__init__()
        self.codes = codes
        self.w_scale = w_scale

    def forward(self, x: Tensor) -> Tensor:
        x_q, s = quantise_rows(x)
        return (x_q @ self.codes.t()) / s * self.w_scale


def load_exported(directory: Path) -> BitNet:
    """Read a packed checkpoint back as a model for evaluation, with exactly the stored values."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    names = [field.name for field in fields(ModelConfig)]
    model = BitNet(ModelConfig(**{name: raw[name] for name in names}))
    tensors = load_file(directory / "model.safetensors")
    with torch.no_grad():
        model.embed_tokens.copy_(tensors["model.embed_tokens.weight"].float())
        model.norm.weight.copy_(tensors["model.norm.weight"].float())
        for index, layer in enumerate(model.layers):
            prefix = f"model.layers.{index}."
            for attribute, name in _NORMS:
                getattr(layer, attribute).weight.copy_(tensors[f"{prefix}{name}.weight"].float())
            for attribute, parts in _LINEARS:
                codes = [
                    torch.from_numpy(unpack_codes(tensors[f"{prefix}{name}.weight"].numpy())).float() for name in parts
                ]
                scales = [
                    tensors[f"{prefix}{name}.weight_scale"].float().expand(len(part))
                    for name, part in zip(parts, codes, strict=True)
                ]
                setattr(layer, attribute, _StoredLinear(torch.cat(codes), torch.cat(scales)))
    model.eval()
    return model

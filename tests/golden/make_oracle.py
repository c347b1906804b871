"""Write tests/golden/oracle/: small checkpoints saved by transformers, and what transformers computes from them in float32.

    pip install torch==2.13.0 transformers accelerate && python tests/golden/make_oracle.py

Not part of the test run: the tests read what this wrote (versions in oracle/versions.json). The weights are random, cast to bf16
or f16, and packed by transformers' own functions. Per case: config.json, model.safetensors, logits.npz with
``tokens_<i>`` (n) int32, ``logits_<i>`` (n, vocab) float32 and ``bf16_<i>`` (n) float32, the relative error (L2 over the vocabulary)
of the same model run in bf16. The first case also has linears.npz: per linear and layer the inputs (rows, k) float32, the int8
and the exact integer dot products (rows, n), taken from the running model.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["TORCH_COMPILE_DISABLE"] = "1"  # the library's quantisers run as written

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, WeightQuant, pack_weights

OUT = Path(__file__).parent / "oracle"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS_KEPT = 6


@dataclass(frozen=True)
class Case:
    """One checkpoint. ``form``: packed or masters; ``heads``: query heads, KV heads, head_dim."""

    name: str
    family: str
    form: str
    hidden: int
    intermediate: int
    layers: int
    heads: tuple[int, int, int]
    vocab: int
    linear_class: str = "autobitlinear"
    dtype: torch.dtype = torch.bfloat16
    tied: bool = True
    theta: float = 10_000.0
    dead_channels: bool = False
    shard_bytes: str = "1GB"
    lengths: tuple[int, ...] = (70, 23)
    extra: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("bitnet-packed-d64", "bitnet", "packed", 256, 540, 2, (4, 1, 64), 301, theta=500_000.0, dead_channels=True),
    Case("bitnet-masters-d96", "bitnet", "masters", 192, 132, 1, (2, 1, 96), 131),
    Case("bitnet-packed-d128", "bitnet", "packed", 256, 300, 1, (2, 1, 128), 267, tied=False, lengths=(150, 9)),
    Case("llama-packed-d100", "llama", "packed", 108, 172, 2, (12, 4, 100), 203, "bitlinear", tied=False),
    Case("llama-packed-d64", "llama", "packed", 140, 232, 2, (20, 5, 64), 251, "bitlinear", theta=1_000_042.0),
    Case("llama-masters-d256", "llama", "masters", 96, 140, 1, (3, 1, 256), 97, dtype=torch.float16, tied=False),
    Case(
        "bitnet-shards-d68",
        *("bitnet", "masters", 136, 140, 1, (2, 2, 68), 157),
        dtype=torch.float32,
        shard_bytes="200KB",
    ),
)


def main() -> None:
    """Write every case anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    for number, case in enumerate(CASES):
        torch.manual_seed(1000 + number)
        folder = OUT / case.name
        folder.mkdir(parents=True)
        save_checkpoint(case, folder)
        save_logits(case, folder, capture=number == 0)
        print(case.name, {path.name: path.stat().st_size for path in sorted(folder.iterdir())})
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    (OUT / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(case: Case, folder: Path) -> None:
    """Let the library save random masters, then, for packed cases, replace each linear by what its own functions pack."""
    n_heads, n_kv_heads, head_dim = case.heads
    values: dict[str, Any] = {
        "hidden_size": case.hidden,
        "intermediate_size": case.intermediate,
        "num_hidden_layers": case.layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "vocab_size": case.vocab,
        "max_position_embeddings": 160,
        "rope_parameters": {"rope_type": "default", "rope_theta": case.theta},
        "tie_word_embeddings": case.tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "rms_norm_eps": 1e-5,
    }
    bitnet = case.family == "bitnet"
    model = (
        BitNetForCausalLM(BitNetConfig(**values))
        if bitnet
        else LlamaForCausalLM(LlamaConfig(**values, head_dim=head_dim))
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.3, 1.5)
                if case.dead_channels and "ffn_sub_norm" in name:
                    parameter[::7] = 1e-32
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
    model.to(case.dtype).save_pretrained(folder, max_shard_size=case.shard_bytes)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": case.linear_class,
        "quantization_mode": "offline" if case.form == "packed" else "online",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if case.form == "packed":
        tensors = load_file(folder / "model.safetensors")
        for name in [name for name in tensors if name.split(".")[-2] in LINEARS]:
            weight = tensors[name].float()
            scale = 1.0 / weight.abs().mean().clamp_(min=1e-5)  # WeightQuant's own line
            codes = (WeightQuant.apply(weight) * scale).round()
            tensors[name] = pack_weights(codes.clone())
            stored = 1.0 / scale if case.linear_class == "autobitlinear" else scale
            tensors[name + "_scale"] = stored.to(torch.bfloat16).reshape(1)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_logits(case: Case, folder: Path, *, capture: bool) -> None:
    """Load the checkpoint with the library in float32, run prompts, and keep the logits."""
    model = load(folder, torch.float32)
    rough = load(folder, torch.bfloat16)
    kept: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(7)
    captured: dict[str, np.ndarray] = {}
    hooks = add_hooks(model, captured) if capture else []
    for i, length in enumerate(case.lengths):
        tokens = rng.integers(0, case.vocab, length).astype(np.int32)
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0].float().numpy()
            other = rough(ids).logits[0].float().numpy()
        kept[f"tokens_{i}"] = tokens
        kept[f"logits_{i}"] = logits
        kept[f"bf16_{i}"] = np.linalg.norm(other - logits, axis=1) / np.linalg.norm(logits, axis=1)
        for hook in hooks:
            hook.remove()
        hooks = []
    np.savez_compressed(folder / "logits.npz", **kept)
    if capture:
        np.savez_compressed(folder / "linears.npz", **captured)


def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Load as a user would."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    kinds = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear | BitLinear)}
    assert kinds - {torch.nn.Linear}, "the quantised linears were not put in place"
    model.to(dtype)  # loading leaves some unpacked codes in float32
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.dtype = dtype
    return model


def add_hooks(model: torch.nn.Module, captured: dict[str, np.ndarray]) -> list[Any]:
    """Capture the inputs of every quantised linear, and the integers that they become."""

    def capture(name: str) -> Any:
        def hook(module: AutoBitLinear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0][0].float()
            rows = torch.linspace(0, x.shape[0] - 1, ROWS_KEPT).long()
            x = x[rows]
            scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp_(min=1e-5)  # ActQuant's own lines
            q = (x * scale).round().clamp(-128, 127)
            codes = module.weight.round()
            assert torch.equal(codes, module.weight), "expected codes, unpacked at load"
            captured[f"{name}.x"] = x.numpy()
            captured[f"{name}.q"] = q.to(torch.int8).numpy()
            captured[f"{name}.dots"] = (q.long() @ codes.long().t()).to(torch.int32).numpy()

        return hook

    return [
        module.register_forward_hook(capture(name))
        for name, module in model.named_modules()
        if isinstance(module, AutoBitLinear)
    ]


if __name__ == "__main__":
    main()

"""Small random Hugging Face checkpoints, written without torch: for tests, and for trying the server on any shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tritserve.model.families import tensor_name
from tritserve.model.header import TERNARY_KINDS, Layout, TensorKind, expected_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tritserve.model.shapes import Shape

SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
WeightForm = Literal["packed", "BF16", "F16", "F32"]
_COMPUTED = (TensorKind.EMBED_SHIFT, TensorKind.HEAD_SHIFT, TensorKind.ROPE_COS, TensorKind.ROPE_SIN)


def write_random_checkpoint(
    folder: Path,
    shape: Shape,
    seed: int = 0,
    *,
    weights: WeightForm = "packed",
    linear_class: Literal["autobitlinear", "bitlinear"] = "autobitlinear",
) -> None:
    """Write config, generation config, tokenizer and ``model.safetensors`` into ``folder``, made if absent.

    ``packed``: uint8 codes with bf16 scales (their reciprocals for ``bitlinear``); otherwise master weights in that dtype.
    Raises ValueError if the vocabulary is too small for the byte tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_special = shape.architecture.vocab - len(SPECIAL_TOKENS)
    if first_special < 256:
        raise ValueError(f"vocab is {shape.architecture.vocab}, expected at least {256 + len(SPECIAL_TOKENS)}")
    _byte_tokenizer(first_special).save(str(folder / "tokenizer.json"))
    bos, end_of_text, end_of_turn = range(first_special, shape.architecture.vocab)
    config = _config(shape, linear_class, weights) | {"bos_token_id": bos, "eos_token_id": end_of_text}
    generation = {
        "bos_token_id": bos,
        "eos_token_id": [end_of_text, end_of_turn],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    texts = {"bos_token": SPECIAL_TOKENS[0], "eos_token": SPECIAL_TOKENS[2], "chat_template": CHAT_TEMPLATE}
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", texts),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_safetensors(folder / "model.safetensors", _tensors(shape, seed, weights, linear_class == "bitlinear"))


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
    """Write named (dtype, array) tensors; a BF16 array is float32 whose lower halves are dropped."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    payload: list[bytes] = []
    end = 0
    for name, (dtype, array) in tensors.items():
        stored = (array.astype("<f4").view("<u4") >> 16).astype("<u2") if dtype == "BF16" else array
        payload.append(stored.tobytes())
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + len(payload[-1])]}
        end += len(payload[-1])
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(payload))


def pack_hf(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack (n, k) codes in {-1, 0, 1} as Hugging Face does: (ceil(n / 4), k), row r in byte row r % q, bits 2 * (r // q)."""
    n, k = codes.shape
    quarter = (n + 3) // 4
    packed = np.zeros((quarter, k), dtype=np.uint8)
    for field in range(4):
        rows = codes[field * quarter : (field + 1) * quarter]
        packed[: len(rows)] |= (rows + 1).astype(np.uint8) << np.uint8(2 * field)
    return packed


def _config(shape: Shape, linear_class: str, weights: WeightForm) -> dict[str, Any]:
    a = shape.architecture
    return {
        "architectures": ["BitNetForCausalLM" if a.sub_norms else "LlamaForCausalLM"],
        "model_type": "bitnet" if a.sub_norms else "llama",
        "hidden_act": "relu2" if a.sub_norms else "silu",
        "hidden_size": a.hidden,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.max_positions,
        "vocab_size": a.vocab,
        "rms_norm_eps": a.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied_head,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": "offline" if weights == "packed" else "online",
        },
    }


def _tensors(shape: Shape, seed: int, weights: WeightForm, divides: bool) -> dict[str, tuple[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for spec in expected_tensors(shape.architecture, tied_head=shape.tied_head):
        name = tensor_name(spec.kind, spec.layer)
        if spec.kind in _COMPUTED:
            continue
        if spec.layout is Layout.F32:
            tensors[name] = ("BF16", rng.uniform(0.5, 1.5, spec.n).astype(np.float32))
        elif spec.kind not in TERNARY_KINDS:
            tensors[name] = ("BF16", rng.normal(0.0, 0.5, (spec.n, spec.k)).astype(np.float32))
        elif weights == "packed":
            codes = rng.integers(-1, 2, (spec.n, spec.k), dtype=np.int8)
            scale = rng.uniform(0.5, 1.5) / spec.k**0.5
            tensors[name] = ("U8", pack_hf(codes))
            tensors[name + "_scale"] = ("BF16", np.array([1.0 / scale if divides else scale], dtype=np.float32))
        else:
            masters = rng.normal(0.0, 1.0 / spec.k**0.5, (spec.n, spec.k))
            tensors[name] = (weights, masters.astype("<f2" if weights == "F16" else "<f4"))
    return tensors


def _byte_tokenizer(first_special: int) -> Tokenizer:
    """Return a byte-level tokenizer without merges: one token per byte, then fillers, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate(alphabet + [f"<filler {i}>" for i in range(first_special - 256)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return tokenizer

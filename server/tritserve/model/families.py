"""The architectures that can be served, in one table, and what the tensors of their checkpoints are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritserve.errors import ModelFileError
from tritserve.model.header import Activation, TensorKind

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Family:
    """A graph: what differs between the models that share this forward pass."""

    name: str
    architectures: tuple[str, ...]
    """``architectures`` entries of config.json, in lower case: the wild has BitNetForCausalLM and BitnetForCausalLM."""
    hidden_act: str
    activation: Activation
    sub_norms: bool
    always_ternary: bool
    """False: ternary only if quantization_config.quant_method says bitnet."""


FAMILIES = (
    Family("bitnet", ("bitnetforcausallm",), "relu2", Activation.RELU2, sub_norms=True, always_ternary=True),
    Family("llama", ("llamaforcausallm",), "silu", Activation.SILU, sub_norms=False, always_ternary=False),
)

EMBED_NAME = "model.embed_tokens.weight"
HEAD_NAME = "lm_head.weight"

_LAYER_NAMES = {
    TensorKind.Q: "self_attn.q_proj",
    TensorKind.K: "self_attn.k_proj",
    TensorKind.V: "self_attn.v_proj",
    TensorKind.O: "self_attn.o_proj",
    TensorKind.GATE: "mlp.gate_proj",
    TensorKind.UP: "mlp.up_proj",
    TensorKind.DOWN: "mlp.down_proj",
    TensorKind.NORM_ATTN: "input_layernorm",
    TensorKind.NORM_ATTN_SUB: "self_attn.attn_sub_norm",
    TensorKind.NORM_FFN: "post_attention_layernorm",
    TensorKind.NORM_FFN_SUB: "mlp.ffn_sub_norm",
}
_MODEL_NAMES = {
    TensorKind.NORM_FINAL: "model.norm.weight",
    TensorKind.EMBED: EMBED_NAME,
    TensorKind.EMBED_SHIFT: EMBED_NAME + ".shift",
    TensorKind.HEAD: HEAD_NAME,
    TensorKind.HEAD_SHIFT: HEAD_NAME + ".shift",
    TensorKind.ROPE_COS: "rope.cos",
    TensorKind.ROPE_SIN: "rope.sin",
}


def tensor_name(kind: TensorKind, layer: int) -> str:
    """Return what Hugging Face checkpoints call a tensor (and the packed file, also for those that conversion adds)."""
    if layer < 0:
        return _MODEL_NAMES[kind]
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"


def find_family(architectures: Sequence[str], hidden_act: str, quant_method: str | None) -> Family:
    """Return the family of a config.json. Raises ModelFileError if there is none."""
    shown = ", ".join(architectures)[:200]
    for family in FAMILIES:
        if len(architectures) == 1 and architectures[0].lower() in family.architectures:
            break
    else:
        raise ModelFileError(
            f"config.json: architectures is [{shown}], expected one of BitNetForCausalLM, LlamaForCausalLM (with BitNet weights)"
        )
    if quant_method != "bitnet" and not (family.always_ternary and quant_method is None):
        raise ModelFileError(
            f"config.json: quantization_config.quant_method is {quant_method!r}, expected 'bitnet': "
            f"this {architectures[0]} is not a ternary model"
        )
    if hidden_act != family.hidden_act:
        raise ModelFileError(
            f"config.json: hidden_act is {hidden_act[:40]!r}, expected {family.hidden_act!r} for {architectures[0]}"
        )
    return family

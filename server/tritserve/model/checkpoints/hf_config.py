"""The small files of a Hugging Face checkpoint folder, read and checked: config, generation config, tokenizer, chat template.

Keys that do not change the computation are ignored, ``auto_map`` among them: nothing from the folder is ever executed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tritserve.errors import ModelFileError
from tritserve.model.families import Family, find_family
from tritserve.model.files import read_small
from tritserve.model.header import Architecture, GenerationDefaults, SpecialTokens

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
SMALL_NAMES = (CONFIG_NAME, GENERATION_NAME, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME, TEMPLATE_NAME)

_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_TOKENIZER_CONFIG_BYTES = 8 * 1024 * 1024
_MAX_TOKENIZER_BYTES = 128 * 1024 * 1024

_TokenIds = int | list[int] | None
_T = TypeVar("_T")


class _Rope(msgspec.Struct, frozen=True):
    rope_theta: float | None = None
    rope_type: str | None = None
    type: str | None = None
    partial_rotary_factor: float | None = None


class _Quantization(msgspec.Struct, frozen=True):
    quant_method: str | None = None
    linear_class: str = "bitlinear"  # what an absent key means to the library that wrote it
    use_rms_norm: bool = False


class _Config(msgspec.Struct, frozen=True):
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    num_key_value_heads: int | None = None
    architectures: list[str] = []
    head_dim: int | None = None
    rope_theta: float | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    partial_rotary_factor: float | None = None
    rope_interleaved: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    is_bitnet_config: bool = False
    quantization_config: _Quantization | None = None
    bos_token_id: int | None = None
    eos_token_id: _TokenIds = None
    pad_token_id: int | None = None


class _Generation(GenerationDefaults, frozen=True, kw_only=True, forbid_unknown_fields=False):
    bos_token_id: int | None = None
    eos_token_id: _TokenIds = None
    pad_token_id: int | None = None


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str
    template: str


class _TokenText(msgspec.Struct, frozen=True):
    content: str


class _TokenizerConfig(msgspec.Struct, frozen=True):
    bos_token: str | _TokenText | None = None
    eos_token: str | _TokenText | None = None
    add_bos_token: bool | None = None
    chat_template: str | list[_NamedTemplate] | None = None


class _AddedToken(msgspec.Struct, frozen=True):
    id: int
    content: str


class _TokenizerModel(msgspec.Struct, frozen=True):
    vocab: dict[str, int] | list[Any]


class _Tokenizer(msgspec.Struct, frozen=True):
    model: _TokenizerModel
    added_tokens: Annotated[list[_AddedToken], Meta(max_length=2**20)] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the small files say, checked. ``divides``: a stored weight_scale is the reciprocal of the scale."""

    family: Family
    architecture: Architecture
    rope_theta: float
    divides: bool
    special_tokens: SpecialTokens
    chat_template: str | None
    generation: GenerationDefaults
    config: dict[str, Any]
    tokenizer: bytes


def read_description(folder: Path) -> Description:
    """Read and check the small files of a checkpoint folder. Raises ModelFileError naming file, got and expected."""
    raw = read_small(folder, CONFIG_NAME, _MAX_CONFIG_BYTES)
    config = _parse(CONFIG_NAME, raw, _Config)
    generation = _read_optional(folder, GENERATION_NAME, _MAX_CONFIG_BYTES, _Generation) or _Generation()
    tokenizer_config = (
        _read_optional(folder, TOKENIZER_CONFIG_NAME, _MAX_TOKENIZER_CONFIG_BYTES, _TokenizerConfig)
        or _TokenizerConfig()
    )
    tokenizer = read_small(folder, TOKENIZER_NAME, _MAX_TOKENIZER_BYTES)
    quantization = config.quantization_config or _Quantization()
    quant_method = quantization.quant_method or ("bitnet" if config.is_bitnet_config else None)
    family = find_family(config.architectures, config.hidden_act, quant_method)
    _refuse_unsupported(config, quantization)
    architecture = _architecture(config, family)
    return Description(
        family=family,
        architecture=architecture,
        rope_theta=_rope_theta(config),
        divides=quantization.linear_class == "bitlinear",
        special_tokens=_special_tokens(config, generation, tokenizer_config, tokenizer, architecture.vocab),
        chat_template=_chat_template(folder, tokenizer_config),
        generation=GenerationDefaults(
            **{name: getattr(generation, name) for name in GenerationDefaults.__struct_fields__}
        ),
        config=_parse(CONFIG_NAME, raw, dict[str, Any]),
        tokenizer=tokenizer,
    )


def _read_optional(folder: Path, name: str, max_bytes: int, form: type[_T]) -> _T | None:
    if not os.path.lexists(folder / name):
        return None
    return _parse(name, read_small(folder, name, max_bytes), form)


def _parse(name: str, raw: bytes, form: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{name}: not valid: {error}") from error


def _refuse_unsupported(config: _Config, quantization: _Quantization) -> None:
    if quantization.linear_class not in ("bitlinear", "autobitlinear"):
        raise ModelFileError(
            f"config.json: quantization_config.linear_class is {quantization.linear_class[:40]!r}, expected 'bitlinear' or 'autobitlinear'"
        )
    for name, is_set in (
        ("quantization_config.use_rms_norm", quantization.use_rms_norm),
        ("attention_bias", config.attention_bias),
        ("mlp_bias", config.mlp_bias),
        ("rope_interleaved", config.rope_interleaved),
    ):
        if is_set:
            raise ModelFileError(f"config.json: {name} is true, expected false: not supported")
    for name, rope in (("rope_parameters", config.rope_parameters), ("rope_scaling", config.rope_scaling)):
        kind = "default" if rope is None else rope.rope_type or rope.type or "default"
        if kind != "default":
            raise ModelFileError(
                f"config.json: {name} has type {kind[:40]!r}, expected 'default': RoPE scaling is not supported"
            )
    factors = (config.partial_rotary_factor, config.rope_parameters and config.rope_parameters.partial_rotary_factor)
    if any(factor not in (None, 1.0) for factor in factors):
        raise ModelFileError(f"config.json: partial_rotary_factor is {factors}, expected 1")


def _rope_theta(config: _Config) -> float:
    nested = None if config.rope_parameters is None else config.rope_parameters.rope_theta
    found = {theta for theta in (config.rope_theta, nested) if theta is not None}
    if len(found) != 1:
        raise ModelFileError(
            f"config.json: rope_theta is {sorted(found) or 'missing'}, expected one value, on its own or in rope_parameters"
        )
    theta = found.pop()
    if not 1.0 < theta <= 1e12:
        raise ModelFileError(f"config.json: rope_theta is {theta}, expected more than 1 and at most 1e12")
    return theta


def _architecture(config: _Config, family: Family) -> Architecture:
    heads, hidden = config.num_attention_heads, config.hidden_size
    if config.head_dim is None and (heads < 1 or hidden % heads):
        raise ModelFileError(f"config.json: hidden_size is {hidden}, expected a multiple of {heads} heads")
    kv_heads = config.num_key_value_heads
    if kv_heads is None:
        if family.sub_norms:  # the class default would be 5, whatever the model
            raise ModelFileError("config.json: num_key_value_heads is missing")
        kv_heads = heads
    values = {
        "hidden": hidden,
        "intermediate": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "head_dim": hidden // heads if config.head_dim is None else config.head_dim,
        "vocab": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "activation": family.activation,
        "sub_norms": family.sub_norms,
        "norm_eps": config.rms_norm_eps,
    }
    try:
        architecture = msgspec.convert(values, Architecture)
    except msgspec.ValidationError as error:
        raise ModelFileError(f"config.json: {error}") from error
    if heads % kv_heads:
        raise ModelFileError(f"config.json: num_key_value_heads is {kv_heads}, expected a divisor of {heads}")
    if family.sub_norms and heads * architecture.head_dim != hidden:
        raise ModelFileError(
            f"config.json: hidden_size is {hidden}, expected heads * head_dim = {heads * architecture.head_dim}"
        )
    return architecture


def _special_tokens(
    config: _Config, generation: _Generation, texts: _TokenizerConfig, tokenizer: bytes, vocab: int
) -> SpecialTokens:
    parsed = _parse(TOKENIZER_NAME, tokenizer, _Tokenizer)
    ids = {token.content: token.id for token in parsed.added_tokens}
    largest = max(ids.values(), default=0)
    if isinstance(parsed.model.vocab, dict):
        largest = max(largest, max(parsed.model.vocab.values(), default=0))
        negative = min(ids.values(), default=0) < 0 or min(parsed.model.vocab.values(), default=0) < 0
    else:
        largest, negative = max(largest, len(parsed.model.vocab) - 1), min(ids.values(), default=0) < 0
    if negative or largest >= vocab:
        raise ModelFileError(
            f"tokenizer.json: largest token id is {largest}, expected 0 to {vocab - 1}, config.json's vocab_size"
        )
    bos_text, eos_text = _text(texts.bos_token), _text(texts.eos_token)
    eos = [*_ids(generation.eos_token_id), *_ids(config.eos_token_id)]
    if eos_text is not None and eos_text in ids:
        eos.append(ids[eos_text])
    bos = generation.bos_token_id if config.bos_token_id is None else config.bos_token_id
    pad = generation.pad_token_id if config.pad_token_id is None else config.pad_token_id
    if pad is not None and pad < 0:
        pad = None  # -1 is how some configs write "none"
    for name, token in (("bos_token_id", bos), ("pad_token_id", pad), *(("eos_token_id", token) for token in eos)):
        if token is not None and not 0 <= token < vocab:
            raise ModelFileError(f"{name} is {token}, expected 0 to {vocab - 1}, config.json's vocab_size")
    if len(set(eos)) > 64:
        raise ModelFileError(f"eos_token_id has {len(set(eos))} ids, expected at most 64")
    return SpecialTokens(
        bos=bos,
        eos=list(dict.fromkeys(eos)),
        pad=pad,
        bos_text=bos_text,
        eos_text=eos_text,
        add_bos=texts.add_bos_token,
    )


def _ids(value: _TokenIds) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value


def _text(value: str | _TokenText | None) -> str | None:
    return value.content if isinstance(value, _TokenText) else value


def _chat_template(folder: Path, texts: _TokenizerConfig) -> str | None:
    if os.path.lexists(folder / TEMPLATE_NAME):
        try:
            return read_small(folder, TEMPLATE_NAME, _MAX_CONFIG_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{TEMPLATE_NAME}: not UTF-8: {error}") from error
    template = texts.chat_template
    if isinstance(template, list):
        named = {entry.name: entry.template for entry in template}
        return named.get("default")
    return template

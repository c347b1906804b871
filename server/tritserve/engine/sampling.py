"""What the sampler reads of one sequence besides its tokens, as arrays made once and handed to C by address."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritserve.protocol import MAX_GRAMMAR_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tritserve.protocol import SamplingParams, Submit

MAX_TOP = 20
"""Most log-probabilities of one position; TRIT_MAX_TOP."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerInputs:
    """``bias_ids`` (n,) int32 and ``bias_values`` (n,) float32; ``suppressed`` (m,) int32: ids forbidden before ``min_tokens``;
    ``mask`` (ceil(vocab / 32),) uint32 or None: the allowed ids, read once ``mask_ready`` (1,) int32 is not 0 (None: at once)."""

    params: SamplingParams
    bias_ids: NDArray[np.int32]
    bias_values: NDArray[np.float32]
    suppressed: NDArray[np.int32]
    mask: NDArray[np.uint32] | None
    mask_ready: NDArray[np.int32] | None = None


def sampler_inputs(submit: Submit, vocab: int) -> SamplerInputs:
    """Turn a request's sampling parameters into arrays. Expects what ``find_fault`` found nothing wrong with."""
    params = submit.sampling
    return SamplerInputs(
        params=params,
        bias_ids=np.fromiter(params.logit_bias.keys(), np.int32),
        bias_values=np.fromiter(params.logit_bias.values(), np.float32),
        suppressed=np.array(sorted(set(submit.stop_token_ids)), np.int32),
        mask=None if params.allowed_token_ids is None else id_mask(params.allowed_token_ids, vocab),
    )


def find_fault(submit: Submit, vocab: int) -> str | None:
    """Say what of a request the native library would refuse, or None.

    The front checks its requests; this is the second line. One wrong number must end one sequence, not fail a step of 32.
    """
    params = submit.sampling
    if not submit.prompt:
        return "the prompt is empty"
    ids = (submit.prompt, submit.forced, submit.stop_token_ids, params.logit_bias, params.allowed_token_ids or ())
    if not all(_are_ids(group, vocab) for group in ids):
        return f"a token id is outside the vocabulary of {vocab}"
    if not 0 <= params.seed < 2**64:
        return f"seed is {params.seed}, expected 64 bits"
    if not (-1 <= submit.prompt_logprobs <= MAX_TOP and -1 <= params.num_top_logprobs <= MAX_TOP):
        return f"more than {MAX_TOP} log-probabilities per position"
    if submit.grammar is not None and len(submit.grammar.source) > MAX_GRAMMAR_BYTES:
        return f"the grammar has more than {MAX_GRAMMAR_BYTES} characters"
    if submit.max_tokens < 0 or (submit.max_tokens == 0 and submit.prompt_logprobs < 0):
        return f"max_tokens is {submit.max_tokens}"
    return _find_fault_of_params(params)


def _find_fault_of_params(params: SamplingParams) -> str | None:
    ranges = {
        "temperature": (params.temperature, 0.0, math.inf),
        "top_p": (params.top_p, 0.0, 1.0),
        "top_k": (params.top_k, 0, 2**31 - 1),
        "min_p": (params.min_p, 0.0, 1.0),
        "presence_penalty": (params.presence_penalty, -math.inf, math.inf),
        "frequency_penalty": (params.frequency_penalty, -math.inf, math.inf),
        "repetition_penalty": (params.repetition_penalty, 1e-6, math.inf),
    }
    for name, (value, low, high) in ranges.items():
        if not (low <= value <= high and abs(value) < _FLOAT32_MAX):
            return f"{name} is {value}"
    if not all(abs(value) < _FLOAT32_MAX for value in params.logit_bias.values()):
        return "a logit bias is not finite"
    return None


_FLOAT32_MAX = 3.4e38


def _are_ids(ids: Iterable[int], vocab: int) -> bool:
    return all(0 <= token < vocab for token in ids)


def id_mask(ids: Iterable[int], vocab: int) -> NDArray[np.uint32]:
    """Return (ceil(vocab / 32),) uint32 with bit id % 32 of word id / 32 set for every id, all of them below ``vocab``."""
    bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
    bits[np.fromiter(ids, np.int64)] = 1
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)

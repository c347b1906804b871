"""From a checked wire model to what the pool runs. Pure: settings, model and body in, requests out.

A parameter absent from the request takes the model's recommendation (generation_config.json), then OpenAI's default.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tritserve.errors import ContextTooLong, InvalidRequest, ModelNotFound
from tritserve.pool.generation import GenerationRequest
from tritserve.protocol import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tritserve.api.front import ServedModel
    from tritserve.api.schemas.common import GenerationBody
    from tritserve.protocol import Grammar
    from tritserve.settings import Settings

T = TypeVar("T", int, float)

_TOKEN_ID = re.compile(r"[0-9]{1,10}")
_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class StopRules:
    """When a choice ends besides its length. ``strings`` count only in the text behind the first ``min_tokens`` tokens; a token of ``eos_ids``
    ends it without being named as the reason."""

    strings: tuple[str, ...] = ()
    include: bool = False
    eos_ids: frozenset[int] = frozenset()
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """Everything of a request but its prompts. ``max_tokens`` None: what is left of the context. ``prompt_logprobs`` -1: none."""

    choices: list[SamplingParams]
    rules: StopRules
    stop_token_ids: frozenset[int]
    max_tokens: int | None
    min_tokens: int
    prompt_logprobs: int
    priority: int
    cache_salt: str
    deadline_seconds: float | None


def check_model(asked: str | None, model: ServedModel) -> str:
    """Return the name to answer with. Raises ModelNotFound."""
    if asked is None:
        return model.names[0]
    if asked not in model.names:
        shown = asked if len(asked) <= _SHOWN_CHARS else asked[:_SHOWN_CHARS] + "..."
        raise ModelNotFound(f"The model {shown!r} does not exist; this server has {', '.join(map(repr, model.names))}.")
    return asked


def convert_options(
    body: GenerationBody,
    model: ServedModel,
    settings: Settings,
    *,
    fresh_seed: int,
    max_tokens: int | None,
    num_top_logprobs: int,
    prompt_logprobs: int = -1,
) -> Options:
    """Turn a body into options; ``fresh_seed`` (unsigned 64 bit) serves requests without one. Raises InvalidRequest naming the field."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options: only allowed when stream is true.", param="stream_options")
    min_tokens = body.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens: {min_tokens} is more than max_tokens, {max_tokens}.", param="min_tokens")
    stop_token_ids = _ids("stop_token_ids", body.stop_token_ids or (), model.vocab_size)
    eos_ids = frozenset() if body.ignore_eos else model.eos_token_ids
    if body.timeout is not None and body.timeout > settings.request_timeout_seconds:
        raise InvalidRequest(
            f"timeout: this server allows at most {settings.request_timeout_seconds:g} seconds.", param="timeout"
        )
    if body.priority is not None and body.priority > 0:
        raise InvalidRequest("priority: must not be above 0, the normal one.", param="priority")
    return Options(
        choices=_choices(body, model, settings, fresh_seed, num_top_logprobs),
        rules=StopRules(
            _stop_strings(body, settings), bool(body.include_stop_str_in_output), eos_ids, min_tokens=min_tokens
        ),
        stop_token_ids=eos_ids | stop_token_ids,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        prompt_logprobs=prompt_logprobs,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        deadline_seconds=body.timeout,
    )


def limit_tokens(asked: int | None, settings: Settings, *, default: int | None, param: str) -> int | None:
    """Return max_tokens as far as it does not depend on the prompt (None: what is left). Raises InvalidRequest."""
    limit = settings.max_completion_tokens or None
    if asked is None:
        return default if limit is None else min(limit, default or limit)
    if limit is not None and asked > limit:
        raise InvalidRequest(f"{param}: must be at most {limit}, the limit of this server.", param=param)
    return asked


def convert_prompts(
    prompts: Sequence[list[int]],
    options: Options,
    settings: Settings,
    *,
    max_model_len: int,
    request_id: str,
    key_name: str,
    param: str,
    grammar: Grammar | None = None,
) -> list[GenerationRequest]:
    """Make one pool request per prompt; max_tokens ends at the context's. Raises ContextTooLong or InvalidRequest."""
    num_choices = len(prompts) * len(options.choices)
    if num_choices > settings.queue_limit:
        raise InvalidRequest(
            f"The request asks for {num_choices} choices; this server holds at most {settings.queue_limit} at a time.",
            param=param,
        )
    requests = []
    for prompt in prompts:
        room = max_model_len - len(prompt)
        asked = room if options.max_tokens is None else options.max_tokens
        if room < (asked > 0 or options.max_tokens is None):
            raise ContextTooLong(len(prompt), max_model_len, param=param)
        max_tokens = min(asked, room)
        requests.append(
            GenerationRequest(
                request_id=request_id,
                prompt=prompt,
                choices=options.choices,
                max_tokens=max_tokens,
                min_tokens=min(options.min_tokens, max_tokens),
                stop_token_ids=options.stop_token_ids,
                prompt_logprobs=options.prompt_logprobs,
                priority=options.priority,
                cache_salt=_salt(key_name, options.cache_salt),
                key_name=key_name,
                deadline_seconds=options.deadline_seconds,
                grammar=grammar,
            )
        )
    return requests


def choice_seed(seed: int, index: int) -> int:
    """Return the seed of a choice (docs/numerics.md, "Sampling"): the request's own for choice 0. Unsigned 64 bit in and out."""
    if index == 0:
        return seed
    digest = hashlib.sha256(b"tritserve-choice" + seed.to_bytes(8, "little") + index.to_bytes(4, "little")).digest()
    return int.from_bytes(digest[:8], "little")


def _choices(
    body: GenerationBody, model: ServedModel, settings: Settings, fresh_seed: int, num_top_logprobs: int
) -> list[SamplingParams]:
    n = body.n if body.n is not None else 1
    if n > settings.max_n:
        raise InvalidRequest(f"n: must be at most {settings.max_n}, the limit of this server.", param="n")
    if body.best_of is not None and body.best_of != n:
        raise InvalidRequest(
            "best_of: only supported where it equals n.", param="best_of", code="unsupported_parameter"
        )
    seed = fresh_seed if body.seed is None else body.seed % 2**64
    defaults = model.defaults
    temperature = 0.0 if defaults.do_sample is False else _first(defaults.temperature, 1.0)
    logit_bias = _logit_bias(body, model.vocab_size, settings)
    allowed = None
    if body.allowed_token_ids is not None:
        allowed = sorted(_ids("allowed_token_ids", body.allowed_token_ids, model.vocab_size))
        if not allowed:
            raise InvalidRequest("allowed_token_ids: must not be empty.", param="allowed_token_ids")
    return [
        SamplingParams(
            seed=choice_seed(seed, index),
            temperature=_first(body.temperature, temperature),
            top_p=_first(body.top_p, defaults.top_p, 1.0),
            top_k=max(0, _first(body.top_k, defaults.top_k, 0)),
            min_p=_first(body.min_p, defaults.min_p, 0.0),
            repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
            presence_penalty=_first(body.presence_penalty, 0.0),
            frequency_penalty=_first(body.frequency_penalty, 0.0),
            logit_bias=logit_bias,
            allowed_token_ids=allowed,
            num_top_logprobs=num_top_logprobs,
        )
        for index in range(n)
    ]


def _logit_bias(body: GenerationBody, vocab_size: int, settings: Settings) -> dict[int, float]:
    given = body.logit_bias or {}
    if len(given) > settings.max_logit_bias:
        raise InvalidRequest(
            f"logit_bias has {len(given)} entries; the limit is {settings.max_logit_bias}.", param="logit_bias"
        )
    if not all(_TOKEN_ID.fullmatch(key) and int(key) < vocab_size for key in given):
        raise InvalidRequest(
            f"logit_bias: every key must be a token id, 0 to {vocab_size - 1}, in decimal digits.", param="logit_bias"
        )
    return {int(key): value for key, value in given.items()}


def _stop_strings(body: GenerationBody, settings: Settings) -> tuple[str, ...]:
    stop = body.stop or []
    if len(stop) > settings.max_stop_strings:
        raise InvalidRequest(f"stop: at most {settings.max_stop_strings} strings are allowed.", param="stop")
    if not all(1 <= len(text) <= settings.max_stop_chars for text in stop):
        raise InvalidRequest(f"stop: every string must have 1 to {settings.max_stop_chars} characters.", param="stop")
    return tuple(stop)


def _ids(name: str, ids: Iterable[int], vocab_size: int) -> frozenset[int]:
    found = frozenset(ids)
    if found and max(found) >= vocab_size:
        raise InvalidRequest(f"{name}: a token id is outside the vocabulary, 0 to {vocab_size - 1}.", param=name)
    return found


def _salt(key_name: str, cache_salt: str) -> bytes:
    """Separate the prefix caches of keys and salts: how long a prompt takes must not tell what others sent."""
    if not key_name and not cache_salt:
        return b""
    return hashlib.sha256(key_name.encode() + b"\0" + cache_salt.encode()).digest()


def _first(*values: T | None) -> T:
    """Return the first that is given."""
    return next(value for value in values if value is not None)

"""Names in a request that no field has: refused, listed or known to do nothing. Nothing is silently ignored.

* ``IGNORABLE`` cannot change the answer: listed in ``x-tritserve-ignored``.
* ``UNSUPPORTED`` would change it and are not served: 400, unless null or a value that asks for nothing.
* Everything else is unknown: listed too, or 400 where the settings are strict.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritserve.api.schemas.common import GenerationBody, StreamOptions, WireModel

HEADER = "x-tritserve-ignored"
_MAX_NAMES = 16
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

IGNORABLE = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# Name -> the values besides null that ask for nothing and so may be sent.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "logit_processors": ([],),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "return_progress": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "timings": (False,),
    "timings_per_token": (False,),
    "use_beam_search": (False,),
}
CHAT_UNSUPPORTED: Mapping[str, tuple[object, ...]] = _UNSUPPORTED | {
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "reasoning": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
COMPLETION_UNSUPPORTED: Mapping[str, tuple[object, ...]] = _UNSUPPORTED | {
    "prompt_embeds": (),
    "suffix": ("",),
}
# Of a message: the official client sends these back, empty, with an assistant's message.
MESSAGE_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "reasoning_content": ("",),
    "refusal": ("",),
}
CHAT_EXTENSIONS = frozenset(
    {
        *("cache_salt", "chat_template_kwargs", "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens"),
        *("presence_penalty", "priority", "repetition_penalty", "seed", "stop_token_ids", "timeout"),
    }
)
"""Parameters of chat that other vendors' shapes of it do not have: served there by their own names."""
PART_IGNORABLE = frozenset({"cache_control", "prompt_cache_breakpoint"})
_STRUCTURED_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "disable_additional_properties": (False,),
    "disable_any_whitespace": (False,),
    "disable_fallback": (False,),
    "json_object": (False,),
    "structural_tag": (),
    "whitespace_pattern": (),
}
_STREAM_IGNORABLE = frozenset({"include_obfuscation"})
_STREAM_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {"continuous_usage_stats": (False,)}


def sort_out_body(body: GenerationBody, unsupported: Mapping[str, Sequence[object]], *, strict: bool) -> list[str]:
    """Return the names that are ignored of a body and the objects in it. Raises InvalidRequest for the others."""
    ignored = sort_out(body.model_extra, unsupported, IGNORABLE, strict=strict)
    ignored += sort_out_stream_options(body.stream_options, strict=strict)
    parts: dict[str, WireModel | None] = {
        "response_format": body.response_format,
        "structured_outputs": body.structured_outputs,
    }
    if body.response_format is not None:
        parts["response_format.json_schema"] = body.response_format.json_schema
    for name, part in parts.items():
        if part is not None:
            ignored += sort_out(
                part.model_extra, _STRUCTURED_UNSUPPORTED, frozenset(), strict=strict, prefix=f"{name}."
            )
    return ignored


def sort_out_stream_options(options: StreamOptions | None, *, strict: bool) -> list[str]:
    """Return the names that are ignored of ``stream_options``. Raises InvalidRequest for the others."""
    extra = None if options is None else options.model_extra
    return sort_out(extra, _STREAM_UNSUPPORTED, _STREAM_IGNORABLE, strict=strict, prefix="stream_options.")


def sort_out(
    extra: Mapping[str, object] | None,
    unsupported: Mapping[str, Sequence[object]],
    ignorable: frozenset[str],
    *,
    strict: bool,
    prefix: str = "",
) -> list[str]:
    """Return the names of ``extra`` that are ignored, with ``prefix`` in front. Raises InvalidRequest for the others."""
    ignored = []
    for name, value in (extra or {}).items():
        if value is None:
            continue
        shown = prefix + (name if _HEADER_NAME.fullmatch(name) else "?")
        if name in unsupported:
            if not any(type(value) is type(neutral) and value == neutral for neutral in unsupported[name]):
                raise InvalidRequest(f"{shown} is not supported.", param=shown, code="unsupported_parameter")
        elif strict and name not in ignorable:
            raise InvalidRequest(f"{shown} is not a known parameter.", param=shown, code="unknown_parameter")
        else:
            ignored.append(prefix + name)
    return ignored


def ignored_headers(names: Sequence[str]) -> dict[str, str]:
    """Return the response header for ignored names: those that may stand in one, at most 16, then how many more."""
    distinct = list(dict.fromkeys(names))
    shown = [name for name in distinct if _HEADER_NAME.fullmatch(name)][:_MAX_NAMES]
    if len(distinct) > len(shown):
        shown.append(f"+{len(distinct) - len(shown)}")
    return {HEADER: ", ".join(shown)} if shown else {}

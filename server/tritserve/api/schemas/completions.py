"""The body of POST /v1/completions."""

from __future__ import annotations

from tritserve.api.schemas.common import GenerationBody, NumTokens, NumTopLogprobs


class CompletionBody(GenerationBody):
    """A text completion request. ``prompt`` has four shapes, told apart in ``api/prompts.py``."""

    prompt: object
    max_tokens: NumTokens | None = None
    max_completion_tokens: NumTokens | None = None
    logprobs: NumTopLogprobs | None = None
    echo: bool | None = None
    parse_special: bool | None = None

"""Grammars over the demo model's vocabulary, walked at random without a model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import tritserve
from tritserve.engine.grammar import GrammarCompiler, Matcher
from tritserve.engine.sampling import id_mask
from tritserve.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from tritserve.protocol import Grammar

DEMO = Path(tritserve.__file__).parent / "demo" / "checkpoint" / "tokenizer.json"
VOCAB = 4096
END, OTHER_END = 4089, 4081  # <|eot_id|>, <|end_of_text|>


@cache
def vocabulary() -> Vocabulary:
    return read_vocabulary(DEMO.read_bytes(), VOCAB)


@cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(vocabulary())


def matcher_of(grammar: Grammar, stop: Iterable[int] = (END,), allowed: Iterable[int] | None = None) -> Matcher:
    mask = None if allowed is None else id_mask(allowed, VOCAB)
    return Matcher(compiler().compile(grammar), compiler(), stop_token_ids=stop, allowed=mask)


def allowed_by(matcher: Matcher) -> list[int]:
    matcher.begin()
    matcher.fill()
    assert matcher.ready[0]
    bits = np.unpackbits(matcher.mask.view(np.uint8), bitorder="little")
    return [int(token) for token in np.nonzero(bits)[0]]


def wander(grammar: Grammar, rng: random.Random, max_tokens: int = 400) -> tuple[bytes, bool]:
    """Choose at random among what is allowed, the end as soon as it is; return the text and whether it ended."""
    matcher, text = matcher_of(grammar), b""
    for _ in range(max_tokens):
        allowed = allowed_by(matcher)
        assert matcher.error is None, matcher.error
        assert allowed
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.5):
            return text, True
        token = rng.choice([token for token in allowed if token != END])
        assert matcher.accept((token,))
        text += vocabulary().pieces[token]
    return text, False

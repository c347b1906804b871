"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.api.schemas.answers import ChatLogprobs, ChatTokenLogprob, TextLogprobs, TopLogprob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tritserve.api.answer import PlacedToken
    from tritserve.protocol import TokenLogprob
    from tritserve.text.tokenizer import Tokenizer

LEAST = -9999.0
"""OpenAI's value for "very unlikely"; JSON knows no infinity."""


def chat_logprobs(tokens: Iterable[PlacedToken], tokenizer: Tokenizer, num_top: int) -> ChatLogprobs:
    """Return the shape of chat answers. ``token`` is text, patched with U+FFFD where ``bytes`` are not."""
    return ChatLogprobs([_chat_token(token.scored, tokenizer, num_top) for token in tokens])


def text_logprobs(tokens: Sequence[PlacedToken], tokenizer: Tokenizer, num_top: int, *, shift: int = 0) -> TextLogprobs:
    """Return the shape of text answers; ``shift`` is the length of the text in front of them (an echoed prompt)."""
    return TextLogprobs(
        text_offset=[token.offset + shift for token in tokens],
        token_logprobs=[max(token.scored.logprob, LEAST) for token in tokens],
        tokens=[token_key(tokenizer.token_bytes(token.scored.token)) for token in tokens],
        top_logprobs=[_top_dict(token.scored, tokenizer, num_top) for token in tokens],
    )


def prompt_logprobs(
    ids: Sequence[int], scores: Sequence[TokenLogprob], offsets: Sequence[int], tokenizer: Tokenizer, num_top: int
) -> TextLogprobs:
    """Return the shape of an echoed prompt: ``scores`` are those of ``ids[1:]``, the first token has none, nor have the last ones if the
    request's time ran out."""
    missing = [None] * (len(ids) - 1 - len(scores))
    return TextLogprobs(
        text_offset=list(offsets),
        token_logprobs=[None, *(max(scored.logprob, LEAST) for scored in scores), *missing],
        tokens=[token_key(tokenizer.token_bytes(token)) for token in ids],
        top_logprobs=[None, *(_top_dict(scored, tokenizer, num_top) for scored in scores), *missing],
    )


def token_key(data: bytes) -> str:
    r"""Write a token's bytes as text, or as ``bytes:\xNN...`` where they are not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def top_tokens(scored: TokenLogprob, num_top: int) -> list[tuple[int, float]]:
    """Return the ``num_top`` most likely tokens; behind them the chosen one if it is not among them."""
    top = scored.top[:num_top]
    if all(token != scored.token for token, _ in top):
        top = [*top, (scored.token, scored.logprob)]
    return top


def _top_dict(scored: TokenLogprob, tokenizer: Tokenizer, num_top: int) -> dict[str, float]:
    top: dict[str, float] = {}
    for token, logprob in top_tokens(scored, num_top):
        top.setdefault(token_key(tokenizer.token_bytes(token)), max(logprob, LEAST))
    # Two ids may be written alike: the likelier one stands, but for the chosen token.
    top[token_key(tokenizer.token_bytes(scored.token))] = max(scored.logprob, LEAST)
    return top


def _chat_token(scored: TokenLogprob, tokenizer: Tokenizer, num_top: int) -> ChatTokenLogprob:
    top = top_tokens(scored, num_top) if num_top else []
    data = tokenizer.token_bytes(scored.token)
    return ChatTokenLogprob(
        token=data.decode("utf-8", "replace"),
        logprob=max(scored.logprob, LEAST),
        bytes=list(data),
        top_logprobs=[_top_entry(tokenizer.token_bytes(token), logprob) for token, logprob in top],
    )


def _top_entry(data: bytes, logprob: float) -> TopLogprob:
    return TopLogprob(data.decode("utf-8", "replace"), max(logprob, LEAST), list(data))

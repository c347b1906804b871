"""Chat answers, whole or chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from tritserve.api import sse
from tritserve.api.generate import EchoedPrompt
from tritserve.api.logprobs import chat_logprobs
from tritserve.api.schemas.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritserve.api.answer import Piece, PlacedToken
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.identity import Identity
    from tritserve.api.schemas.answers import FinishReason, StopReason, Usage
    from tritserve.text.tokenizer import Tokenizer

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ChatShape:
    """What the client asked to see. ``num_top_logprobs`` None: no log-probabilities. ``prompt_ids`` are given only if they were asked for."""

    num_choices: int
    num_top_logprobs: int | None
    include_usage: bool
    prompt_ids: list[int] | None


@dataclass(slots=True)
class _Collected:
    texts: list[str] = field(default_factory=list)
    tokens: list[PlacedToken] = field(default_factory=list)
    finish: FinishReason = "stop"
    stop_reason: StopReason = None


class ChatWriter:
    """A ``Writer`` for chat."""

    def __init__(self, identity: Identity, shape: ChatShape, tokenizer: Tokenizer) -> None:
        self._identity = identity
        self._shape = shape
        self._tokenizer = tokenizer
        self._collected = [_Collected() for _ in range(shape.num_choices)]

    def opening(self) -> Iterator[bytes]:
        """Say who speaks, once per choice."""
        for index in range(self._shape.num_choices):
            chunk = self._chunk([ChatChunkChoice(index, ChatDelta(role="assistant", content=""))])
            if index == 0 and self._shape.prompt_ids is not None:
                chunk.prompt_token_ids = self._shape.prompt_ids
            yield _event(chunk)

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield the new text, and on the last piece a chunk with the reason and whatever tokens have no text of their own."""
        piece = _only_piece(piece)
        tokens = piece.tokens
        if piece.text:
            yield self._text_chunk(piece.choice, ChatDelta(content=piece.text), tokens)
            tokens = []
        if piece.finish is not None:
            yield self._text_chunk(piece.choice, ChatDelta(), tokens, piece.finish, piece.stop_reason)

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """Yield the chunk with the usage, if it was asked for, and the end."""
        if self._shape.include_usage:
            chunk = self._chunk([])
            chunk.usage = usage
            yield _event(chunk)
        yield sse.DONE

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the error as the last event."""
        return sse.data(reply.content)

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        piece = _only_piece(piece)
        choice = self._collected[piece.choice]
        choice.texts.append(piece.text)
        choice.tokens += piece.tokens
        if piece.finish is not None:
            choice.finish, choice.stop_reason = piece.finish, piece.stop_reason

    def whole(self, usage: Usage) -> bytes:
        """Return the whole answer."""
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(content="".join(choice.texts)),
                logprobs=self._logprobs(choice.tokens),
                finish_reason=choice.finish,
                stop_reason=choice.stop_reason,
                token_ids=self._token_ids(choice.tokens),
            )
            for index, choice in enumerate(self._collected)
        ]
        prompt_ids = self._shape.prompt_ids
        answer = ChatCompletion(
            id=self._identity.id,
            created=self._identity.created,
            model=self._identity.model,
            system_fingerprint=self._identity.system_fingerprint,
            choices=choices,
            usage=usage,
            prompt_token_ids=UNSET if prompt_ids is None else prompt_ids,
        )
        return _encode(answer)

    def _text_chunk(
        self,
        index: int,
        delta: ChatDelta,
        tokens: Sequence[PlacedToken],
        finish: FinishReason | None = None,
        stop_reason: StopReason = None,
    ) -> bytes:
        choice = ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(tokens) if tokens else None,
            finish_reason=finish,
            stop_reason=UNSET if finish is None else stop_reason,
            token_ids=self._token_ids(tokens),
        )
        return _event(self._chunk([choice]))

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self._identity.id,
            created=self._identity.created,
            model=self._identity.model,
            system_fingerprint=self._identity.system_fingerprint,
            choices=choices,
            usage=None if self._shape.include_usage else UNSET,
        )

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> ChatLogprobs | None:
        num_top = self._shape.num_top_logprobs
        return None if num_top is None else chat_logprobs(tokens, self._tokenizer, num_top)

    def _token_ids(self, tokens: Sequence[PlacedToken]) -> list[int] | msgspec.UnsetType:
        return UNSET if self._shape.prompt_ids is None else [placed.scored.token for placed in tokens]


def _event(chunk: ChatChunk) -> bytes:
    return sse.data(_encode(chunk))


def _only_piece(piece: Piece | EchoedPrompt) -> Piece:
    """Chat asks for no prompt scores, so there are none."""
    if isinstance(piece, EchoedPrompt):
        raise TypeError("a chat answer has no echoed prompt")
    return piece

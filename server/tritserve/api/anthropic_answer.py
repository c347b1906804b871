"""Answers of POST /v1/messages, whole or event by event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tritserve.api import sse
from tritserve.api.generate import EchoedPrompt
from tritserve.api.http_errors import anthropic_error
from tritserve.api.schemas.anthropic import MessageAnswer, MessageEvent, MessageUsage, StopDelta, TextBlock, TextDelta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritserve.api.answer import Piece
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.identity import Identity
    from tritserve.api.schemas.answers import Usage
    from tritserve.api.schemas.anthropic import StopReason

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What the client asked for."""

    num_prompt_tokens: int
    max_tokens: int
    stop_sequences: tuple[str, ...]
    request_id: str


class MessageWriter:
    """A ``Writer`` for messages: one text block."""

    def __init__(self, identity: Identity, shape: MessageShape) -> None:
        self._identity = identity
        self._shape = shape
        self._texts: list[str] = []
        self._last: Piece | None = None

    def opening(self) -> Iterator[bytes]:
        """Begin the message and its block. How many tokens were cached is not known yet."""
        yield _event(
            MessageEvent(
                type="message_start", message=self._answer([], MessageUsage(self._shape.num_prompt_tokens, 0, 0))
            )
        )
        yield _event(MessageEvent(type="content_block_start", index=0, content_block=TextBlock("")))
        yield _event(MessageEvent(type="ping"))

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield the new text."""
        piece = self._note(piece)
        if piece.text:
            yield _event(MessageEvent(type="content_block_delta", index=0, delta=TextDelta(piece.text)))

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """End the block and the message."""
        reason, sequence = self._stop(usage)
        yield _event(MessageEvent(type="content_block_stop", index=0))
        yield _event(MessageEvent(type="message_delta", delta=StopDelta(reason, sequence), usage=_usage(usage)))
        yield _event(MessageEvent(type="message_stop"))

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the error as the last event."""
        return sse.event("error", anthropic_error(reply, self._shape.request_id))

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        self._texts.append(self._note(piece).text)

    def whole(self, usage: Usage) -> bytes:
        """Return the whole answer."""
        answer = self._answer([TextBlock("".join(self._texts))], _usage(usage))
        answer.stop_reason, answer.stop_sequence = self._stop(usage)
        return _encode(answer)

    def _note(self, piece: Piece | EchoedPrompt) -> Piece:
        if isinstance(piece, EchoedPrompt):
            raise TypeError("a message has no echoed prompt")
        if piece.finish is not None:
            self._last = piece
        return piece

    def _answer(self, content: list[TextBlock], usage: MessageUsage) -> MessageAnswer:
        return MessageAnswer(
            id=self._identity.id,
            model=self._identity.model,
            content=content,
            stop_reason=None,
            stop_sequence=None,
            usage=usage,
        )

    def _stop(self, usage: Usage) -> tuple[StopReason | None, str | None]:
        last = self._last
        if last is None:
            return None, None
        if last.finish == "length":
            is_context = last.stop_reason is None and usage.completion_tokens < self._shape.max_tokens
            return "model_context_window_exceeded" if is_context else "max_tokens", None
        if last.stop_reason in self._shape.stop_sequences:
            return "stop_sequence", str(last.stop_reason)
        return "end_turn", None


def _usage(usage: Usage) -> MessageUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(usage.prompt_tokens - cached, usage.completion_tokens, cached)


def _event(event: MessageEvent) -> bytes:
    return sse.event(event.type, _encode(event))

"""Answers of POST /v1/messages, whole or event by event: blocks of text and calls of tools."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tritserve.api import sse
from tritserve.api.http_errors import anthropic_error
from tritserve.api.schemas.anthropic import (
    InputDelta,
    MessageAnswer,
    MessageEvent,
    MessageUsage,
    StopDelta,
    TextBlock,
    TextDelta,
    ToolUseBlock,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritserve.api.answer import Piece
    from tritserve.api.generate import EchoedPrompt
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.identity import Identity
    from tritserve.api.schemas.answers import Usage
    from tritserve.api.schemas.anthropic import StopReason
    from tritserve.api.segments import Segment, Segmenter

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What the client asked for."""

    num_prompt_tokens: int
    max_tokens: int
    stop_sequences: tuple[str, ...]
    request_id: str


class MessageWriter:
    """A ``Writer`` for messages."""

    def __init__(self, identity: Identity, shape: MessageShape, segmenter: Segmenter) -> None:
        self._identity = identity
        self._shape = shape
        self._segmenter = segmenter

    def opening(self) -> Iterator[bytes]:
        """Begin the message. How many tokens were cached is not known yet."""
        message = self._answer([], MessageUsage(self._shape.num_prompt_tokens, 0, 0))
        yield _event(MessageEvent(type="message_start", message=message))
        yield _event(MessageEvent(type="ping"))

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield blocks as they begin, grow and end."""
        for kind, segment, text, _ in self._segmenter.take(piece):
            match kind:
                case "opened":
                    block = _block(segment, "" if segment.name is None else "{}")
                    yield _event(MessageEvent(type="content_block_start", index=segment.index, content_block=block))
                case "grown":
                    delta = TextDelta(text) if segment.name is None else InputDelta(text)
                    yield _event(MessageEvent(type="content_block_delta", index=segment.index, delta=delta))
                case "closed":
                    yield _event(MessageEvent(type="content_block_stop", index=segment.index))

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """End the message."""
        reason, sequence = self._stop(usage)
        yield _event(MessageEvent(type="message_delta", delta=StopDelta(reason, sequence), usage=_usage(usage)))
        yield _event(MessageEvent(type="message_stop"))

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the error as the last event."""
        return sse.event("error", anthropic_error(reply, self._shape.request_id))

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        for _ in self._segmenter.take(piece):
            pass

    def whole(self, usage: Usage) -> bytes:
        """Return the whole answer. A call that was cut off has no JSON to show and is left out."""
        segments = self._segmenter.segments
        blocks = [_block(segment, segment.content) for segment in segments if segment.name is None or segment.is_whole]
        answer = self._answer(blocks, _usage(usage))
        answer.stop_reason, answer.stop_sequence = self._stop(usage)
        return _encode(answer)

    def _answer(self, content: list[TextBlock | ToolUseBlock], usage: MessageUsage) -> MessageAnswer:
        return MessageAnswer(
            id=self._identity.id,
            model=self._identity.model,
            content=content,
            stop_reason=None,
            stop_sequence=None,
            usage=usage,
        )

    def _stop(self, usage: Usage) -> tuple[StopReason | None, str | None]:
        last = self._segmenter.last
        if last is None:
            return None, None
        if last.finish == "length":
            is_context = last.stop_reason is None and usage.completion_tokens < self._shape.max_tokens
            return "model_context_window_exceeded" if is_context else "max_tokens", None
        if self._segmenter.has_called:
            return "tool_use", None
        if last.stop_reason in self._shape.stop_sequences:
            return "stop_sequence", str(last.stop_reason)
        return "end_turn", None


def _block(segment: Segment, content: str) -> TextBlock | ToolUseBlock:
    """Return a segment as a block that holds ``content``: text, or JSON."""
    if segment.name is None:
        return TextBlock(content)
    return ToolUseBlock(f"toolu_{secrets.token_hex(12)}", segment.name, msgspec.Raw(content.encode()))


def _usage(usage: Usage) -> MessageUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(usage.prompt_tokens - cached, usage.completion_tokens, cached)


def _event(event: MessageEvent) -> bytes:
    return sse.event(event.type, _encode(event))

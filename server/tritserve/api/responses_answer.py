"""Answers of POST /v1/responses, whole or event by event: one message with one text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from tritserve.api import sse
from tritserve.api.generate import EchoedPrompt
from tritserve.api.logprobs import chat_logprobs
from tritserve.api.schemas.responses import (
    IncompleteDetails,
    InputTokensDetails,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ResponseAnswer,
    ResponseEvent,
    ResponseFailure,
    ResponseUsage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritserve.api.answer import Piece, PlacedToken
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.schemas.answers import ChatTokenLogprob, Usage
    from tritserve.text.tokenizer import Tokenizer

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Grown:
    """The text so far."""

    text: str = ""
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)
    is_cut: bool = False


class ResponseWriter:
    """A ``Writer`` for responses. Events are numbered, and each that ends something repeats it whole."""

    def __init__(
        self, answer: ResponseAnswer, item_id: str, tokenizer: Tokenizer, num_top_logprobs: int | None
    ) -> None:
        """``answer`` is the response before anything was generated. ``num_top_logprobs`` None: no log-probabilities."""
        self._answer = answer
        self._item_id = item_id
        self._tokenizer = tokenizer
        self._num_top = num_top_logprobs
        self._grown = _Grown()
        self._num_events = 0

    def opening(self) -> Iterator[bytes]:
        """Begin the response, its message and its text."""
        yield self._event("response.created", response=self._answer)
        yield self._event("response.in_progress", response=self._answer)
        item = OutputMessage(self._item_id, "in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._in_part("response.content_part.added", part=OutputText(""))

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield the new text with the tokens that begin in it."""
        logprobs = self._take(piece)
        if not isinstance(piece, EchoedPrompt) and (piece.text or logprobs):
            yield self._in_part("response.output_text.delta", delta=piece.text, logprobs=logprobs)

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """End the text, its message and the response."""
        part = self._part()
        yield self._in_part("response.output_text.done", text=part.text, logprobs=part.logprobs)
        yield self._in_part("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=0, item=self._item())
        self._end(usage)
        yield self._event(f"response.{self._answer.status}", response=self._answer)

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the failed response as the last event."""
        self._answer.status = "failed"
        self._answer.error = ResponseFailure(reply.code or "server_error", reply.message)
        return self._event("response.failed", response=self._answer)

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        self._take(piece)

    def whole(self, usage: Usage) -> bytes:
        """Return the whole response."""
        self._end(usage)
        return _encode(self._answer)

    def _take(self, piece: Piece | EchoedPrompt) -> list[ChatTokenLogprob]:
        """Note a piece; return the log-probabilities of its tokens."""
        if isinstance(piece, EchoedPrompt):
            raise TypeError("a response has no echoed prompt")
        logprobs = self._logprobs(piece.tokens)
        self._grown.text += piece.text
        self._grown.logprobs += logprobs
        self._grown.is_cut = piece.finish == "length"
        return logprobs

    def _logprobs(self, tokens: list[PlacedToken]) -> list[ChatTokenLogprob]:
        return [] if self._num_top is None else chat_logprobs(tokens, self._tokenizer, self._num_top).content

    def _part(self) -> OutputText:
        return OutputText(self._grown.text, logprobs=self._grown.logprobs)

    def _item(self) -> OutputMessage:
        return OutputMessage(self._item_id, "incomplete" if self._grown.is_cut else "completed", [self._part()])

    def _end(self, usage: Usage) -> None:
        answer = self._answer
        answer.output = [self._item()]
        if self._grown.is_cut:
            answer.status, answer.incomplete_details = "incomplete", IncompleteDetails()
        else:
            answer.status, answer.completed_at = "completed", int(time.time())
        answer.usage = ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(),
            total_tokens=usage.total_tokens,
        )

    def _in_part(self, kind: str, **fields: object) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        event = ResponseEvent(type=kind, sequence_number=number, **fields)  # type: ignore[arg-type]  # names as there
        return sse.event(kind, _encode(event))

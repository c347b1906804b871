"""Answers of POST /v1/responses, whole or event by event: items that are messages of one text, or calls."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from tritserve.api import sse
from tritserve.api.logprobs import chat_logprobs
from tritserve.api.schemas.responses import (
    IncompleteDetails,
    InputTokensDetails,
    OutputCall,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ResponseAnswer,
    ResponseEvent,
    ResponseFailure,
    ResponseUsage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritserve.api.answer import Piece, PlacedToken
    from tritserve.api.generate import EchoedPrompt
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.schemas.answers import ChatTokenLogprob, Usage
    from tritserve.api.schemas.responses import ItemStatus
    from tritserve.api.segments import Segment, Segmenter
    from tritserve.text.tokenizer import Tokenizer

_encode = msgspec.json.Encoder().encode


class ResponseWriter:
    """A ``Writer`` for responses. Events are numbered, and each that ends something repeats it whole."""

    def __init__(
        self, answer: ResponseAnswer, segmenter: Segmenter, tokenizer: Tokenizer, num_top_logprobs: int | None
    ) -> None:
        """``answer`` is the response before anything was generated. ``num_top_logprobs`` None: no log-probabilities."""
        self._answer = answer
        self._segmenter = segmenter
        self._tokenizer = tokenizer
        self._num_top = num_top_logprobs
        self._ids: list[tuple[str, str]] = []  # of items, and of calls
        self._num_events = 0

    def opening(self) -> Iterator[bytes]:
        """Begin the response."""
        yield self._event("response.created", response=self._answer)
        yield self._event("response.in_progress", response=self._answer)

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield items as they begin, grow and end."""
        for change in self._segmenter.take(piece):
            match change.kind:
                case "opened":
                    yield from self._opened(change.segment)
                case "grown" if change.segment.name is None:
                    logprobs = self._logprobs(change.tokens)
                    yield self._in_part(
                        "response.output_text.delta", change.segment, delta=change.text, logprobs=logprobs
                    )
                case "grown":
                    yield self._in_item("response.function_call_arguments.delta", change.segment, delta=change.text)
                case "closed":
                    yield from self._closed(change.segment)

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """End the response."""
        self._end(usage)
        yield self._event(f"response.{self._answer.status}", response=self._answer)

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the failed response as the last event."""
        self._answer.status = "failed"
        self._answer.error = ResponseFailure(reply.code or "server_error", reply.message)
        return self._event("response.failed", response=self._answer)

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        for _ in self._segmenter.take(piece):
            pass

    def whole(self, usage: Usage) -> bytes:
        """Return the whole response."""
        self._end(usage)
        return _encode(self._answer)

    def _opened(self, segment: Segment) -> Iterator[bytes]:
        item = self._item(segment, "in_progress")
        if isinstance(item, OutputMessage):
            item.content = []
        yield self._event("response.output_item.added", output_index=segment.index, item=item)
        if segment.name is None:
            yield self._in_part("response.content_part.added", segment, part=OutputText(""))

    def _closed(self, segment: Segment) -> Iterator[bytes]:
        if segment.name is None:
            part = self._part(segment)
            yield self._in_part("response.output_text.done", segment, text=part.text, logprobs=part.logprobs)
            yield self._in_part("response.content_part.done", segment, part=part)
        elif segment.is_whole:
            fields = {"name": segment.name, "arguments": segment.content}
            yield self._in_item("response.function_call_arguments.done", segment, **fields)
        yield self._event("response.output_item.done", output_index=segment.index, item=self._item(segment))

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> list[ChatTokenLogprob]:
        return [] if self._num_top is None else chat_logprobs(tokens, self._tokenizer, self._num_top).content

    def _part(self, segment: Segment) -> OutputText:
        return OutputText(segment.content, logprobs=self._logprobs(segment.tokens))

    def _item(self, segment: Segment, status: ItemStatus | None = None) -> OutputMessage | OutputCall:
        status = status or ("completed" if segment.is_whole else "incomplete")
        item_id, call_id = self._ids_of(segment)
        if segment.name is None:
            return OutputMessage(item_id, status, [self._part(segment)])
        return OutputCall(item_id, call_id, segment.name, segment.content, status)

    def _ids_of(self, segment: Segment) -> tuple[str, str]:
        while len(self._ids) <= segment.index:
            self._ids.append((secrets.token_hex(16), f"call_{secrets.token_hex(12)}"))
        number, call_id = self._ids[segment.index]
        return ("msg_" if segment.name is None else "fc_") + number, call_id

    def _end(self, usage: Usage) -> None:
        answer, last = self._answer, self._segmenter.last
        answer.output = [self._item(segment) for segment in self._segmenter.segments]
        if last is not None and last.finish == "length":
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

    def _in_part(self, kind: str, segment: Segment, **fields: object) -> bytes:
        return self._in_item(kind, segment, content_index=0, **fields)

    def _in_item(self, kind: str, segment: Segment, **fields: object) -> bytes:
        return self._event(kind, item_id=self._ids_of(segment)[0], output_index=segment.index, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        event = ResponseEvent(type=kind, sequence_number=number, **fields)  # type: ignore[arg-type]  # names as there
        return sse.event(kind, _encode(event))

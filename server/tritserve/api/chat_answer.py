"""Chat answers, whole or chunk by chunk."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from tritserve.api import sse
from tritserve.api.generate import EchoedPrompt
from tritserve.api.logprobs import chat_logprobs
from tritserve.api.schemas.answers import (
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from tritserve.api.segments import found_in
from tritserve.text.tools import CallReader, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    on_calls: Callable[[], None] | None = None
    """Called when a choice has ended with calls of functions; None: the answer may hold none."""


@dataclass(slots=True)
class _Choice:
    """What is known of a choice: all of it for a whole answer; for a stream only ``tokens`` that no chunk has shown yet."""

    reader: CallReader | None
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[PlacedToken] = field(default_factory=list)
    finish: FinishReason = "stop"
    stop_reason: StopReason = None


class ChatWriter:
    """A ``Writer`` for chat."""

    def __init__(self, identity: Identity, shape: ChatShape, tokenizer: Tokenizer) -> None:
        self._identity = identity
        self._shape = shape
        self._tokenizer = tokenizer
        self._choices = [
            _Choice(CallReader() if shape.on_calls is not None else None) for _ in range(shape.num_choices)
        ]

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
        choice = self._choices[piece.choice]
        choice.tokens += piece.tokens
        for found in found_in(piece, choice.reader):
            yield self._next_chunk(piece.choice, _delta(found))
        if piece.finish is not None:
            yield self._next_chunk(piece.choice, ChatDelta(), self._finish(choice, piece.finish), piece.stop_reason)

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
        choice = self._choices[piece.choice]
        choice.tokens += piece.tokens
        for found in found_in(piece, choice.reader):
            if found.call is None:
                choice.texts.append(found.text)
            elif found.name is not None:
                choice.calls.append(ToolCall(id=_new_call_id(), function=CalledFunction(found.name, "")))
            else:
                choice.calls[found.call].function.arguments += found.text
        if piece.finish is not None:
            choice.finish, choice.stop_reason = self._finish(choice, piece.finish), piece.stop_reason

    def whole(self, usage: Usage) -> bytes:
        """Return the whole answer."""
        choices = [
            ChatChoice(
                index=index,
                message=_message(choice),
                logprobs=self._logprobs(choice.tokens),
                finish_reason=choice.finish,
                stop_reason=choice.stop_reason,
                token_ids=self._token_ids(choice.tokens),
            )
            for index, choice in enumerate(self._choices)
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

    def _finish(self, choice: _Choice, finish: FinishReason) -> FinishReason:
        if finish != "stop" or choice.reader is None or not choice.reader.num_whole:
            return finish
        if self._shape.on_calls is not None:
            self._shape.on_calls()
        return "tool_calls"

    def _next_chunk(
        self, index: int, delta: ChatDelta, finish: FinishReason | None = None, stop_reason: StopReason = None
    ) -> bytes:
        """Return the next chunk of a choice, with the tokens that wait for one."""
        tokens, self._choices[index].tokens = self._choices[index].tokens, []
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


def _delta(found: Found) -> ChatDelta:
    if found.call is None:
        return ChatDelta(content=found.text)
    if found.name is None:
        return ChatDelta(tool_calls=[ToolCallDelta(found.call, FunctionDelta(found.text))])
    function = FunctionDelta("", found.name)
    return ChatDelta(tool_calls=[ToolCallDelta(found.call, function, _new_call_id(), "function")])


def _message(choice: _Choice) -> ChatMessage:
    if not choice.calls:
        return ChatMessage(content="".join(choice.texts))
    return ChatMessage(content="".join(choice.texts) or None, tool_calls=choice.calls)


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _event(chunk: ChatChunk) -> bytes:
    return sse.data(_encode(chunk))


def _only_piece(piece: Piece | EchoedPrompt) -> Piece:
    """Chat asks for no prompt scores, so there are none."""
    if isinstance(piece, EchoedPrompt):
        raise TypeError("a chat answer has no echoed prompt")
    return piece

"""Text completion answers, whole or chunk by chunk: the same object either way."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from tritserve.api import sse
from tritserve.api.generate import EchoedPrompt
from tritserve.api.logprobs import prompt_logprobs, text_logprobs
from tritserve.api.schemas.answers import TextChoice, TextCompletion, TextLogprobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritserve.api.answer import Piece, PlacedToken
    from tritserve.api.http_errors import ErrorReply
    from tritserve.api.identity import Identity
    from tritserve.api.prompts import Prompt
    from tritserve.api.schemas.answers import FinishReason, StopReason, Usage
    from tritserve.protocol import TokenLogprob
    from tritserve.text.tokenizer import Tokenizer

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What the client asked to see. ``num_top_logprobs`` None: no log-probabilities."""

    prompts: Sequence[Prompt]
    n: int
    echo: bool
    num_top_logprobs: int | None
    include_usage: bool
    return_token_ids: bool


@dataclass(frozen=True, slots=True)
class _Echo:
    """A prompt as it is shown, and where each of its tokens begins in it."""

    text: str
    offsets: list[int]


@dataclass(slots=True)
class _Collected:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TextLogprobs] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish: FinishReason = "stop"
    stop_reason: StopReason = None


class CompletionWriter:
    """A ``Writer`` for text completions."""

    def __init__(self, identity: Identity, shape: CompletionShape, tokenizer: Tokenizer) -> None:
        self._identity = identity
        self._shape = shape
        self._tokenizer = tokenizer
        self._echoes = [_echo(prompt, tokenizer) for prompt in shape.prompts] if shape.echo else []
        self._collected = [_Collected() for _ in range(len(shape.prompts) * shape.n)]

    def opening(self) -> Iterator[bytes]:
        """Show the prompts where they are not waited for, and the ids of the prompts if they were asked for."""
        for choice in self._opening():
            yield self._event([choice])

    def events(self, piece: Piece | EchoedPrompt) -> Iterator[bytes]:
        """Yield the new text, and on the last piece a chunk with the reason and whatever tokens have no text of their own."""
        if isinstance(piece, EchoedPrompt):
            yield self._event([self._echo_choice(piece.choice, piece.scores)])
            return
        tokens = piece.tokens
        if piece.text:
            yield self._event([self._text_choice(piece.choice, piece.text, tokens)])
            tokens = []
        if piece.finish is not None:
            last = self._text_choice(piece.choice, "", tokens)
            last.finish_reason, last.stop_reason = piece.finish, piece.stop_reason
            yield self._event([last])

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """Yield the chunk with the usage, if it was asked for, and the end."""
        if self._shape.include_usage:
            yield self._event([], usage)
        yield sse.DONE

    def failure(self, reply: ErrorReply) -> bytes:
        """Return the error as the last event."""
        return sse.data(reply.content)

    def add(self, piece: Piece | EchoedPrompt) -> None:
        """Collect a piece for ``whole``."""
        choice = self._collected[piece.choice]
        if isinstance(piece, EchoedPrompt):
            part = self._echo_choice(piece.choice, piece.scores)
        else:
            part = self._text_choice(piece.choice, piece.text, piece.tokens)
            choice.token_ids += [placed.scored.token for placed in piece.tokens]
            if piece.finish is not None:
                choice.finish, choice.stop_reason = piece.finish, piece.stop_reason
        choice.texts.append(part.text)
        if part.logprobs is not None:
            choice.logprobs.append(part.logprobs)

    def whole(self, usage: Usage) -> bytes:
        """Return the whole answer."""
        openings = {choice.index: choice.text for choice in self._opening()}
        choices = [
            TextChoice(
                index=index,
                text=openings.get(index, "") + "".join(choice.texts),
                logprobs=self._joined(choice.logprobs),
                finish_reason=choice.finish,
                stop_reason=choice.stop_reason,
                token_ids=choice.token_ids if self._shape.return_token_ids else UNSET,
                prompt_token_ids=self._prompt(index).ids if self._shape.return_token_ids else UNSET,
            )
            for index, choice in enumerate(self._collected)
        ]
        return self._answer(choices, usage)

    def _opening(self) -> Iterator[TextChoice]:
        shows_prompt = self._shape.echo and self._shape.num_top_logprobs is None
        if not (shows_prompt or self._shape.return_token_ids):
            return
        for index in range(len(self._collected)):
            choice = TextChoice(index, self._echo_of(index).text if shows_prompt else "")
            if self._shape.return_token_ids:
                choice.prompt_token_ids = self._prompt(index).ids
            yield choice

    def _echo_choice(self, index: int, scores: Sequence[TokenLogprob]) -> TextChoice:
        echo = self._echo_of(index)
        num_top = self._shape.num_top_logprobs or 0
        ids = self._prompt(index).ids
        return TextChoice(index, echo.text, prompt_logprobs(ids, scores, echo.offsets, self._tokenizer, num_top))

    def _text_choice(self, index: int, text: str, tokens: Sequence[PlacedToken]) -> TextChoice:
        choice = TextChoice(index, text)
        num_top = self._shape.num_top_logprobs
        if num_top is not None and tokens:
            shift = len(self._echo_of(index).text) if self._shape.echo else 0
            choice.logprobs = text_logprobs(tokens, self._tokenizer, num_top, shift=shift)
        if self._shape.return_token_ids:
            choice.token_ids = [placed.scored.token for placed in tokens]
        return choice

    def _event(self, choices: list[TextChoice], usage: Usage | None = None) -> bytes:
        return sse.data(self._answer(choices, usage))

    def _answer(self, choices: list[TextChoice], usage: Usage | None = None) -> bytes:
        answer = TextCompletion(
            id=self._identity.id,
            created=self._identity.created,
            model=self._identity.model,
            system_fingerprint=self._identity.system_fingerprint,
            choices=choices,
            usage=usage if usage is not None or self._shape.include_usage else UNSET,
        )
        return _encode(answer)

    def _joined(self, parts: Sequence[TextLogprobs]) -> TextLogprobs | None:
        if self._shape.num_top_logprobs is None:
            return None
        joined = TextLogprobs([], [], [], [])
        for part in parts:
            joined.text_offset += part.text_offset
            joined.token_logprobs += part.token_logprobs
            joined.tokens += part.tokens
            joined.top_logprobs += part.top_logprobs
        return joined

    def _prompt(self, index: int) -> Prompt:
        return self._shape.prompts[index // self._shape.n]

    def _echo_of(self, index: int) -> _Echo:
        return self._echoes[index // self._shape.n]


def _echo(prompt: Prompt, tokenizer: Tokenizer) -> _Echo:
    """Show a prompt as the client wrote it, or spell its ids out, special tokens too: they are the client's. A BOS that the server put in front
    of a text has no text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    offsets: list[int] = []
    length = 0
    for index, token in enumerate(prompt.ids):
        offsets.append(length)
        is_added = index == 0 and prompt.text is not None and token == tokenizer.bos_token_id
        piece = "" if is_added else decoder.decode(tokenizer.token_bytes(token))
        pieces.append(piece)
        length += len(piece)
    text = "".join(pieces) + decoder.decode(b"", final=True)
    if prompt.text is not None:
        # Equal but for what the tokenizer normalises, above all the space that sentencepiece puts in front.
        added = len(text) - len(prompt.text) if text.endswith(prompt.text) else 0
        text = prompt.text
        offsets = [min(max(offset - added, 0), len(text)) for offset in offsets]
    return _Echo(text, offsets)

"""One HTTP request in the pool: submit its prompts, turn their events into pieces of text, and stop it whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritserve.api.answer import ChoiceText, Piece
from tritserve.api.schemas.answers import PromptTokensDetails, Usage
from tritserve.errors import RequestAborted, ServerError
from tritserve.pool.generation import ChoiceEnd, ChoiceToken, PromptScores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from tritserve.api.convert import StopRules
    from tritserve.api.front import Front
    from tritserve.api.meter import Meter
    from tritserve.pool.generation import Generation, GenerationEvent, GenerationRequest
    from tritserve.protocol import TokenLogprob


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """Comes once per choice, before its pieces, where the prompt's scores were asked for: those of all its tokens but the first, or as many as
    there were when the request's time ran out."""

    choice: int
    prompt: int
    scores: list[TokenLogprob]


@dataclass(slots=True)
class _PromptRun:
    """One prompt in the pool. Events wait in ``held`` until all ``scores`` are there; ``is_scored`` from the start where none are wanted."""

    request: GenerationRequest
    generation: Generation
    first_choice: int
    is_scored: bool
    scores: list[TokenLogprob] = field(default_factory=list)
    held: list[ChoiceToken | ChoiceEnd] = field(default_factory=list)


class Run:
    """The request's generations as one stream. Choices count prompt by prompt: prompt p, choice i of n is p * n + i."""

    def __init__(self, front: Front, rules: StopRules, meter: Meter, *, keep_tokens: bool) -> None:
        self.meter = meter
        self.is_client_gone = False
        self._front = front
        self._rules = rules
        self._keep_tokens = keep_tokens
        self._prompts: list[_PromptRun] = []
        self._texts: list[ChoiceText] = []

    async def start(self, requests: Sequence[GenerationRequest]) -> None:
        """Submit every prompt, or none: if one is refused the others are stopped. Raises what ``Pool.submit`` does."""
        self.meter.num_prompt_tokens = sum(len(request.prompt) for request in requests)
        try:
            for request in requests:
                generation = await self._front.pool.submit(request)
                run = _PromptRun(request, generation, len(self._texts), request.prompt_logprobs < 0)
                self._prompts.append(run)
                for _ in request.choices:
                    self._texts.append(self._new_text(len(self._texts)))
        except BaseException:
            self.abort()
            raise
        self.meter.generations = [run.generation for run in self._prompts]
        self.meter.expect(len(self._texts))

    @property
    def num_choices(self) -> int:
        """Choices of all prompts."""
        return len(self._texts)

    def usage(self) -> Usage:
        """Return the tokens so far."""
        num_prompt, num_generated = self.meter.num_prompt_tokens, self.meter.num_generated_tokens
        cached = sum(run.generation.num_cached_tokens for run in self._prompts)
        return Usage(num_prompt, num_generated, num_prompt + num_generated, PromptTokensDetails(cached))

    async def pieces(self) -> AsyncGenerator[Piece | EchoedPrompt, None]:
        """Yield what every choice has new, until all have ended. Raises what iterating a ``Generation`` does."""
        for run in self._prompts:  # a prompt of one token has no scores to wait for
            for piece in self._release_if_scored(run):
                yield piece
        async with aclosing(_merge([run.generation for run in self._prompts])) as events:
            async for index, event in events:
                for piece in self._take(self._prompts[index], event):
                    yield piece
        for run in self._prompts:  # nothing more comes
            for piece in self._release(run):
                yield piece
        if not all(text.is_finished for text in self._texts):
            raise ServerError("a generation ended before all its choices did")

    def client_gone(self) -> None:
        """Stop because nobody reads any more."""
        self.is_client_gone = True
        self.abort()

    def failed(self, error: BaseException) -> None:
        """Note why the request ends early."""
        self.meter.failed(error, client_is_gone=self.is_client_gone and isinstance(error, (RequestAborted, OSError)))

    def abort(self) -> None:
        """Stop every choice. Idempotent."""
        for run in self._prompts:
            run.generation.abort()

    def close(self) -> None:
        """Stop what still runs and report the request. Idempotent; call it in ``finally``."""
        self.abort()
        self.meter.close()

    def _new_text(self, choice: int) -> ChoiceText:
        detokenizer = self._front.model.text.detokenizer()
        return ChoiceText(choice, detokenizer, self._rules, keep_tokens=self._keep_tokens)

    def _take(self, run: _PromptRun, event: GenerationEvent) -> Iterator[Piece | EchoedPrompt]:
        if isinstance(event, PromptScores):
            run.scores += event.entries
            yield from self._release_if_scored(run)
            return
        if isinstance(event, ChoiceToken):
            self.meter.token(run.first_choice + event.choice)
        if run.is_scored:
            yield from self._piece(run, event)
        else:
            run.held.append(event)

    def _release_if_scored(self, run: _PromptRun) -> Iterator[Piece | EchoedPrompt]:
        if len(run.scores) >= len(run.request.prompt) - 1:
            yield from self._release(run)

    def _release(self, run: _PromptRun) -> Iterator[Piece | EchoedPrompt]:
        """Let the prompt out, and then what waited for its last score."""
        if run.is_scored:
            return
        run.is_scored = True
        prompt = self._prompts.index(run)
        for index in range(len(run.request.choices)):
            yield EchoedPrompt(run.first_choice + index, prompt, run.scores)
        held, run.held = run.held, []
        for event in held:
            yield from self._piece(run, event)

    def _piece(self, run: _PromptRun, event: ChoiceToken | ChoiceEnd) -> Iterator[Piece]:
        text = self._texts[run.first_choice + event.choice]
        if text.is_finished:  # a stop string matched while this event was held
            return
        piece = text.feed(event.token, event.finish) if isinstance(event, ChoiceToken) else text.end(event.finish)
        if piece is None:
            return
        if piece.finish is not None:
            run.generation.finish_choice(event.choice)
            timed_out = piece.finish == "length" and piece.stop_reason == "timeout"
            self.meter.finished(piece.finish, timed_out=timed_out)
        yield piece


async def _merge(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, GenerationEvent], None]:
    """Yield every generation's events as they come. One that fails fails all."""
    if len(generations) == 1:
        async for event in generations[0]:
            yield 0, event
        return
    iterators = [aiter(generation) for generation in generations]
    waiting = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                try:
                    event = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(iterators[index]))] = index
                yield index, event
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

"""A pool without workers for tests of the HTTP layer: what a request generates is a script of events."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Self

from tritserve.errors import RequestAborted, ServerError
from tritserve.pool.generation import (
    ChoiceEnd,
    ChoiceToken,
    GenerationEvent,
    GenerationRequest,
    PoolStatus,
    PromptScores,
)
from tritserve.protocol import Grammar, KernelTime, TokenLogprob

Step = GenerationEvent | asyncio.Event | ServerError
"""One step of a script: an event, something to wait for, or an error to raise."""
Script = Callable[[GenerationRequest], Sequence[Step]]


class ScriptedGeneration:
    """A ``Generation`` that plays its steps; a script that ends before its choices do waits to be stopped."""

    def __init__(self, request: GenerationRequest, steps: Sequence[Step], num_cached_tokens: int = 0) -> None:
        self.request = request
        self.num_cached_tokens = num_cached_tokens
        self.queue_seconds: float | None = 0.25
        self.was_aborted = False
        self.stopped_choices: list[int] = []
        self.num_read = 0
        self.over = asyncio.Event()
        """Set when it was stopped."""
        self._steps = list(steps)
        self._open = set(range(len(request.choices)))
        self._changed = asyncio.Event()
        self._error: ServerError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        while True:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            if not self._steps:
                self._changed.clear()
                await self._changed.wait()
                continue
            step = self._steps[0]
            if isinstance(step, asyncio.Event) and not step.is_set():
                self._changed.clear()
                waits = [asyncio.ensure_future(step.wait()), asyncio.ensure_future(self._changed.wait())]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                continue
            self._steps.pop(0)
            if isinstance(step, asyncio.Event):
                continue
            if isinstance(step, ServerError):
                self._open.clear()
                self._error = step
                raise step
            if not isinstance(step, PromptScores):
                if step.choice not in self._open:
                    continue
                if step.finish is not None:
                    self._open.discard(step.choice)
            self.num_read += 1
            return step

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self._open

    def finish_choice(self, choice: int) -> None:
        """End one choice."""
        if choice in self._open:
            self._open.discard(choice)
            self.stopped_choices.append(choice)
            self._changed.set()

    def abort(self) -> None:
        """End every choice."""
        if self._open:
            self._open.clear()
            self.was_aborted = True
            self.over.set()
            self._error = RequestAborted("The request was stopped.")
            self._changed.set()


class ScriptedPool:
    """A ``Pool``. ``refusal`` is raised by the next submissions, from number ``refuse_from`` on."""

    def __init__(self, script: Script | None = None, *, max_model_len: int = 256, num_cached_tokens: int = 0) -> None:
        self.script: Script = script or pseudo_model
        self.num_cached_tokens = num_cached_tokens
        self.generations: list[ScriptedGeneration] = []
        self.refusal: ServerError | None = None
        self.refuse_from = 0
        self.grammars: list[Grammar] = []
        self.grammar_refusal: str | ServerError | None = None
        self.submitted = asyncio.Event()
        self.status = PoolStatus(
            ready=True,
            draining=False,
            failed=None,
            num_workers=1,
            isa="ref",
            kernels="fake",
            kernel_times=(KernelTime("gemv", "a", 1e-6, chosen=True),),
            num_threads=1,
            max_model_len=max_model_len,
            num_running=0,
            num_waiting=0,
            kv_used_bytes=0,
            kv_capacity_bytes=0,
        )

    @property
    def requests(self) -> list[GenerationRequest]:
        """Everything submitted."""
        return [generation.request for generation in self.generations]

    def set_status(self, **fields: object) -> None:
        """Change what ``status`` says."""
        self.status = dataclasses.replace(self.status, **fields)  # type: ignore[arg-type]  # names as in PoolStatus

    async def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        """Admit a request."""
        if self.refusal is not None and len(self.generations) >= self.refuse_from:
            raise self.refusal
        generation = ScriptedGeneration(request, self.script(request), self.num_cached_tokens)
        self.generations.append(generation)
        self.submitted.set()
        return generation

    async def check_grammar(self, grammar: Grammar) -> str | None:
        """Remember it, and say what the test wants."""
        self.grammars.append(grammar)
        if isinstance(self.grammar_refusal, ServerError):
            raise self.grammar_refusal
        return self.grammar_refusal

    async def start(self) -> None:
        """Nothing to start."""

    async def drain(self, timeout_seconds: float) -> None:
        """Abort what runs."""
        for generation in self.generations:
            generation.abort()


def scored(token: int, num_top: int = 0) -> TokenLogprob:
    """Return a token with log-probabilities that depend on nothing but its id; the top ones are the ids behind it."""
    top = [(token + rank, -0.25 * (rank + 1) - token / 1024) for rank in range(num_top)]
    return TokenLogprob(token, -0.25 - token / 1024, top)


def say(choice: int, tokens: Sequence[int], finish: str | None = "stop", num_top: int = 0) -> list[Step]:
    """Return the events of one choice that generates ``tokens``; the last one ends it with ``finish``."""
    last = len(tokens) - 1
    return [
        ChoiceToken(choice, scored(token, num_top), finish if index == last else None)  # type: ignore[arg-type]  # as given
        for index, token in enumerate(tokens)
    ]


def prompt_scores(request: GenerationRequest) -> list[Step]:
    """Return what a request for prompt log-probabilities gets, in two pieces; nothing where none were asked for."""
    if request.prompt_logprobs < 0:
        return []
    entries = [scored(token, request.prompt_logprobs) for token in request.prompt[1:]]
    half = (len(entries) + 1) // 2
    pieces = [PromptScores(1, entries[:half]), PromptScores(1 + half, entries[half:])]
    return [piece for piece in pieces if piece.entries]


def scripted(*answers: Sequence[int], finish: str | None = "stop") -> Script:
    """Return a script: choice i of every prompt generates ``answers[i]`` (the last one serves the rest), token by token in turn."""

    def script(request: GenerationRequest) -> list[Step]:
        choices = [
            say(index, answers[min(index, len(answers) - 1)], finish, sampling.num_top_logprobs)
            for index, sampling in enumerate(request.choices)
        ]
        steps = prompt_scores(request)
        for position in range(max(map(len, choices))):
            steps += [events[position] for events in choices if position < len(events)]
        return steps

    return script


def pseudo_tokens(prompt: Sequence[int], seed: int, count: int) -> list[int]:
    """Return what the pseudo model says: lower-case ASCII, a pure function of prompt, seed and position."""
    key = hashlib.sha256(repr((list(prompt), seed)).encode()).digest()
    return [97 + hashlib.sha256(key + position.to_bytes(4, "little")).digest()[0] % 26 for position in range(count)]


def pseudo_model(request: GenerationRequest) -> list[Step]:
    """Generate ``max_tokens`` tokens for every choice."""
    if request.max_tokens == 0:
        ends: list[Step] = [ChoiceEnd(index, "length") for index in range(len(request.choices))]
        return [*prompt_scores(request), *ends]
    answers = [pseudo_tokens(request.prompt, sampling.seed, request.max_tokens) for sampling in request.choices]
    return list(scripted(*answers, finish="length")(request))

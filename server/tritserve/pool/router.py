"""The async boundary: requests in, events out, whatever happens to the workers.

Requests are split into choices, each with a journal entry; a worker's frames become events of the choice they name. When a
worker dies its choices keep their place and go to its successor with the tokens so far: the reader sees a pause. Everything
here runs in the event loop and is synchronous except waiting for events; nothing blocks.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from typing import TYPE_CHECKING

from tritserve.errors import ContextTooLong, InvalidRequest, RequestAborted, Unavailable, WorkerFailed
from tritserve.pool.admission import Admission, FairClock, Throughput
from tritserve.pool.events import StepReader
from tritserve.pool.generation import ChoiceEnd
from tritserve.pool.journal import GRAMMAR_TOKENS, Entry, PoisonList, Verdict
from tritserve.pool.port import Port, PrefixAffinity
from tritserve.pool.stream import LiveChoice, RunningGeneration
from tritserve.protocol import GrammarDone, GrammarStarted, StepDone, StepStarted, Submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tritserve.pool.generation import GenerationRequest
    from tritserve.pool.observer import PoolObserver, RestartReason
    from tritserve.protocol import Hello, ToWorker, WorkerReport
    from tritserve.settings import Settings

_FAILED = "The model could not be loaded; the server's log says why."  # the reason names files


class Router:
    """Every live choice and which worker has it. The supervisor reports workers coming, talking and going."""

    def __init__(self, settings: Settings, num_workers: int, observer: PoolObserver) -> None:
        self.ports = [Port(index) for index in range(num_workers)]
        self.live: dict[int, LiveChoice] = {}
        self.failed: str | None = None
        self.draining = False
        self.admission = Admission(settings.queue_limit, settings.max_tokens_in_flight)
        self._settings = settings
        self._observer = observer
        self._throughput = Throughput()
        self._fair = FairClock()
        self._poison = PoisonList()
        self._affinity = PrefixAffinity()
        self._seq_ids = itertools.count(1)
        self._groups = itertools.count(1)
        self._idle = asyncio.Event()
        self._idle.set()
        self._reader = StepReader(self.live, self._throughput, self._fair, self._end_choice, observer)

    # --- requests ---------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> RunningGeneration:
        """Admit a request and give its choices to a worker.

        Raises Overloaded, Unavailable, WorkerFailed (the prompt is refused for a minute), ContextTooLong or InvalidRequest.
        """
        ports = self._usable_ports()
        self._check(request, ports)
        context = max(port.hello.max_model_len for port in ports if port.hello is not None)
        tokens = min(len(request.prompt) + request.max_tokens, context)
        busy_rate = self._throughput.tokens_per_second * len(ports)
        self.admission.admit([tokens] * len(request.choices), busy_rate, random.random())
        generation = RunningGeneration(len(request.choices), self._drop)
        self._start(request, generation, self._affinity.choose(request.prompt, ports), tokens)
        return generation

    def _usable_ports(self) -> list[Port]:
        if self.failed is not None:
            raise Unavailable(_FAILED, retry_after_seconds=60.0)
        if self.draining:
            raise Unavailable("The server is shutting down.")
        ports = [port for port in self.ports if port.is_usable]
        if not ports:
            raise Unavailable("No worker is ready: the model is being loaded.")
        return ports

    def _check(self, request: GenerationRequest, ports: list[Port]) -> None:
        num_prompt = len(request.prompt)
        hellos = [port.hello for port in ports if port.hello is not None]
        max_model_len = min(hello.max_model_len for hello in hellos)
        vocab = min(hello.vocab for hello in hellos)
        if num_prompt + (request.max_tokens > 0) > max_model_len:
            raise ContextTooLong(num_prompt, max_model_len)
        if not num_prompt:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if min(request.prompt) < 0 or max(request.prompt) >= vocab:
            raise InvalidRequest(f"A token id is outside the vocabulary of {vocab}.", param="prompt")
        if self._poison.refuses(request.prompt, asyncio.get_running_loop().time()):
            raise WorkerFailed("This prompt made the model's worker fail repeatedly and is refused for a minute.")

    def _start(self, request: GenerationRequest, generation: RunningGeneration, port: Port, tokens: int) -> None:
        loop = asyncio.get_running_loop()
        group = next(self._groups)
        arrival = self._fair.stamp(request.key_name, tokens * len(request.choices))
        # Without the prefix cache a salt of its own keeps a request's blocks to itself: its choices, preemption and recovery share them.
        salt = request.cache_salt if self._settings.prefix_cache else secrets.token_bytes(16)
        for index, sampling in enumerate(request.choices):
            submit = Submit(
                seq_id=next(self._seq_ids),
                group=group,
                prompt=request.prompt,
                sampling=sampling,
                max_tokens=request.max_tokens,
                min_tokens=request.min_tokens,
                stop_token_ids=sorted(request.stop_token_ids),
                prompt_logprobs=request.prompt_logprobs if index == 0 else -1,
                priority=request.priority,
                arrival=arrival,
                cache_salt=salt,
                grammar=request.grammar,
            )
            choice = LiveChoice(index, Entry(submit), generation, port.index, tokens, loop.time())
            self.live[submit.seq_id] = choice
            self._idle.clear()
            if submit.max_tokens == 0 and submit.prompt_logprobs < 0:
                generation.deliver(ChoiceEnd(index, "length"))
                self._end_choice(choice)
            else:
                self._assign(choice, port)
        if not generation.is_over:
            limit = self._settings.request_timeout_seconds
            seconds = limit if request.deadline_seconds is None else min(limit, request.deadline_seconds)
            generation.deadline = loop.call_later(seconds, self._time_out, generation)

    def _assign(self, choice: LiveChoice, port: Port) -> None:
        choice.worker = port.index
        port.live.add(choice.entry.submit.seq_id)
        port.num_tokens += choice.reserved_tokens
        if port.send is not None:
            port.send(choice.entry.resubmit())

    def _unassign(self, choice: LiveChoice) -> None:
        port = self.ports[choice.worker]
        seq_id = choice.entry.submit.seq_id
        if seq_id in port.live:
            port.live.discard(seq_id)
            port.num_tokens -= choice.reserved_tokens

    def _end_choice(self, choice: LiveChoice) -> None:
        """Forget a choice whose last event is delivered, or whom nobody wants any more."""
        if self.live.pop(choice.entry.submit.seq_id, None) is None:
            return
        self._unassign(choice)
        self.admission.release(choice.reserved_tokens)
        if choice.first_token_at is not None:
            self._observer.on_decode_time(asyncio.get_running_loop().time() - choice.first_token_at)
        choice.generation.close_choice(choice.index)
        if not self.live:
            self._idle.set()

    def _drop(self, generation: RunningGeneration, indexes: list[int], cancelled: bool) -> None:
        dropped = [c for c in self.live.values() if c.generation is generation and c.index in indexes]
        for choice in dropped:
            self.ports[choice.worker].abort([choice.entry.submit.seq_id])
            if cancelled:
                self._observer.on_cancelled(choice.stage)
            self._end_choice(choice)

    def _time_out(self, generation: RunningGeneration) -> None:
        for choice in [c for c in self.live.values() if c.generation is generation]:
            self.ports[choice.worker].abort([choice.entry.submit.seq_id])
            generation.deliver(ChoiceEnd(choice.index, "timeout"))
            self._end_choice(choice)

    # --- workers ----------------------------------------------------------------------------------------------------

    def worker_up(self, index: int, hello: Hello, send: Callable[[ToWorker], None]) -> None:
        """A worker said hello: give it what its slot holds, in order of arrival."""
        port = self.ports[index]
        port.hello, port.send, port.is_lost = hello, send, False
        for seq_id in sorted(port.live):
            send(self.live[seq_id].entry.resubmit())
        for lost in self.ports:
            if lost.is_lost:
                self._reassign(lost, [port])
        self._observer.on_ready(index, hello)
        if port.live and port.death is not None:
            self._observer.on_resumed(len(port.live), port.death)

    def worker_message(self, index: int, message: WorkerReport) -> None:
        """A worker reports what it does. Raises ProtocolError if the report contradicts the journal."""
        port = self.ports[index]
        match message:
            case StepStarted():
                self._reader.step_started(port, message)
            case StepDone():
                self._reader.step_done(port, message)
            case GrammarStarted():
                port.compiling = message.seq_id
            case GrammarDone():
                self._reader.grammar_done(port, message)

    def worker_down(self, index: int, reason: RestartReason) -> None:
        """A worker is dead: find who is to blame; the others wait for its successor."""
        port = self.ports[index]
        in_step, port.in_step = port.in_step, {}
        if port.compiling is not None:
            in_step.setdefault(port.compiling, GRAMMAR_TOKENS)
            port.compiling = None
        port.send = None
        port.stats = (
            None  # its sequences hold no blocks any more, and may all be gone before a successor's first step says so
        )
        port.aborted.clear()
        for seq_id in sorted(port.live):
            choice = self.live.get(seq_id)
            if choice is not None and choice.entry.record_death(in_step.get(seq_id)) is Verdict.FAIL:
                self._poison.add(choice.entry.submit.prompt, asyncio.get_running_loop().time())
                choice.generation.fail(
                    WorkerFailed("The model's worker failed three times while computing this request.")
                )
        port.death = reason
        self._observer.on_restart(reason)

    def worker_lost(self, index: int) -> None:
        """A worker will not be back soon: its choices go to others, or wait for the first that comes up."""
        self.ports[index].is_lost = True
        others = [port for port in self.ports if port.is_usable]
        if others:
            self._reassign(self.ports[index], others)

    def _reassign(self, lost: Port, others: list[Port]) -> None:
        for seq_id in sorted(lost.live):
            choice = self.live[seq_id]
            self._unassign(choice)
            self._assign(choice, self._affinity.choose(choice.entry.submit.prompt, others))

    def pool_failed(self, message: str) -> None:
        """No worker can ever start: every request ends now."""
        self.failed = message
        self._fail_all(lambda: Unavailable(_FAILED))

    # --- shutdown ---------------------------------------------------------------------------------------------------

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new work, wait for what runs, end the rest with RequestAborted."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            self._fail_all(lambda: RequestAborted("The server is shutting down."))

    def _fail_all(self, make_error: Callable[[], RequestAborted | Unavailable]) -> None:
        generations: Iterable[RunningGeneration] = {choice.generation for choice in self.live.values()}
        for generation in generations:
            generation.fail(make_error())

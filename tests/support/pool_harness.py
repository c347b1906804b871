"""A pool of real worker processes with the fake model, and readers of its streams."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fake_runner import model_completion

from tritserve.machine import Machine, NumaNode
from tritserve.pool.generation import ChoiceEnd, ChoiceToken, GenerationRequest, PromptScores
from tritserve.pool.observer import PoolObserver
from tritserve.pool.process_pool import ProcessPool
from tritserve.pool.restart import Timing
from tritserve.protocol import SamplingParams
from tritserve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tritserve.pool.generation import Generation, GenerationEvent
    from tritserve.protocol import Hello, StepStats

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
MACHINE = Machine((NumaNode((0,), 1),), None, None, 4 * 1024**3)
PATIENT = Timing(restarts_per_minute=10_000, first_delay_seconds=0.001, longest_delay_seconds=0.05)


class Recorder(PoolObserver):
    """Remembers what the pool reports and wakes who waits for it."""

    def __init__(self) -> None:
        self.restarts: list[str] = []
        self.resumed = 0
        self.cancelled: list[str] = []
        self.faults = 0
        self.hellos: list[Hello] = []
        self.stats: StepStats | None = None
        self.changed = asyncio.Event()

    def on_ready(self, worker: int, hello: Hello) -> None:
        self.hellos.append(hello)
        self.changed.set()

    def on_step(self, worker: int, stats: StepStats) -> None:
        self.stats = stats
        self.changed.set()

    def on_restart(self, reason: str) -> None:
        self.restarts.append(reason)
        self.changed.set()

    def on_resumed(self, count: int, reason: str) -> None:
        self.resumed += count

    def on_cancelled(self, stage: str) -> None:
        self.cancelled.append(stage)

    def on_numeric_fault(self) -> None:
        self.faults += 1

    async def until(self, condition: Any) -> None:
        """Wait until ``condition()`` holds; it is looked at whenever something was reported."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def running_pool(
    folder: Path, *, timing: Timing = PATIENT, options: dict[str, Any] | None = None, wait: bool = True, **settings: Any
) -> AsyncIterator[tuple[ProcessPool, Recorder]]:
    """Yield a started pool (``wait``: ready) and its recorder; stop it at the end."""
    model = folder / "fake.json"
    model.write_text(json.dumps(options or {}))
    recorder = Recorder()
    given = Settings(**{"kv_cache_bytes": 1024 * 1024, "workers": 1, "max_step_tokens": 64, **settings})
    pool = ProcessPool(given, model, recorder, machine=MACHINE, timing=timing, command=FAKE_WORKER)
    await pool.start()
    try:
        if wait:
            await recorder.until(lambda: pool.status.ready)
        yield pool, recorder
    finally:
        await pool.drain(0.0)


def request_of(prompt: list[int], *seeds: int, max_tokens: int = 20, **fields: Any) -> GenerationRequest:
    """Return a request with one choice per seed."""
    choices = [SamplingParams(seed=seed) for seed in seeds or (1,)]
    return GenerationRequest(request_id="test", prompt=prompt, choices=choices, max_tokens=max_tokens, **fields)


class Answer:
    """What a reader got."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.finish: dict[int, str] = {}
        self.scores: list[int] = []

    def take(self, event: object) -> None:
        match event:
            case ChoiceToken(choice, token, finish):
                assert choice not in self.finish
                self.tokens.setdefault(choice, []).append(token.token)
                if finish:
                    self.finish[choice] = finish
            case ChoiceEnd(choice, finish):
                assert choice not in self.finish
                self.finish[choice] = finish
            case PromptScores(start, entries):
                assert start == len(self.scores) + 1
                self.scores += [entry.token for entry in entries]


class Killer:
    """Kills a new worker whenever a random number of tokens has arrived from it, until it has killed enough."""

    def __init__(self, pool: ProcessPool, num_kills: int, most_tokens: int = 20) -> None:
        self._pool = pool
        self._rng = random.Random(num_kills)
        self._victim = 0
        self._tokens_left = 5
        self._most_tokens = most_tokens
        self.num_left = num_kills

    async def watch(self, generation: Generation) -> AsyncIterator[GenerationEvent]:
        """Pass a stream's events on, and kill between them."""
        async for event in generation:
            yield event
            self._tokens_left -= 1
            pid = self._pool.worker_pids[0]
            if self.num_left and self._tokens_left <= 0 and pid != self._victim:
                self._victim, self.num_left = pid, self.num_left - 1
                self._tokens_left = self._rng.randint(1, self._most_tokens)
                os.kill(pid, signal.SIGKILL)


async def read_all(generation: Generation) -> Answer:
    """Read a stream to its end."""
    answer = Answer()
    async for event in generation:
        answer.take(event)
    return answer


def assert_as_alone(answer: Answer, request: GenerationRequest) -> None:
    """Check every choice's tokens against the model run alone."""
    for index, sampling in enumerate(request.choices):
        expected = model_completion(request.prompt, sampling.seed, request.max_tokens, request.stop_token_ids)
        assert answer.tokens[index] == expected

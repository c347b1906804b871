"""An engine over the fake runner, stepped by hand."""

from __future__ import annotations

from collections import defaultdict

from fake_runner import FakeRunner

from tritserve.engine.core import EngineCore
from tritserve.engine.scheduler import SchedulerLimits
from tritserve.protocol import PromptLogprobs, SamplingParams, StepDone, Submit


class Driver:
    """Steps an engine and gathers what it reports."""

    def __init__(
        self, *, num_blocks: int = 64, batch: int = 8, step_tokens: int = 32, max_model_len: int = 512
    ) -> None:
        self.runner = FakeRunner(num_blocks)
        self.core = EngineCore(self.runner, SchedulerLimits(batch, step_tokens), max_model_len)
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.finish: dict[int, str] = {}
        self.cached: dict[int, int] = {}
        self.scores: list[PromptLogprobs] = []
        self.started: list[list[int]] = []

    def submit(self, seq_id: int, prompt: list[int], max_tokens: int = 8, **fields: object) -> None:
        fields = {"group": seq_id, "arrival": seq_id, "sampling": SamplingParams(seed=1), **fields}
        self.core.submit(Submit(seq_id=seq_id, prompt=prompt, max_tokens=max_tokens, **fields))  # type: ignore[arg-type]

    def step(self) -> StepDone:
        done = self.core.step(lambda started: self.started.append([seq_id for seq_id, *_ in started.sequences]))
        for event in done.tokens:
            assert event.index == len(self.tokens[event.seq_id])
            assert event.seq_id not in self.finish
            self.tokens[event.seq_id].append(event.token)
            if event.finish:
                self.finish[event.seq_id] = event.finish
        for end in done.ends:
            assert end.seq_id not in self.finish
            self.finish[end.seq_id] = end.finish
        self.cached.update(done.cached)
        self.scores += done.prompt_logprobs
        self.core.blocks.check_integrity()
        return done

    def run(self) -> None:
        for _ in range(10_000):
            if not (self.core.has_work or self.core.has_news):
                assert self.core.blocks.num_used == 0
                return
            self.step()
        raise AssertionError("the engine does not come to an end")


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [(7 * i + salt) % 900 for i in range(length)]

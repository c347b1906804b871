"""Any interleaving of add, step, abort and pool pressure keeps the engine's promises."""

from __future__ import annotations

from fake_runner import FakeRunner, model_completion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tritserve.engine.core import EngineCore
from tritserve.engine.scheduler import SchedulerLimits
from tritserve.protocol import SamplingParams, Submit

MAX_MODEL_LEN = 80


class EngineMachine(RuleBasedStateMachine):
    """Sequences from a few families of prefixes, on a pool that is often too small for all of them."""

    @initialize(num_blocks=st.integers(2, 14), batch=st.integers(1, 6), step_tokens=st.sampled_from([6, 16, 17, 40]))
    def start(self, num_blocks: int, batch: int, step_tokens: int) -> None:
        self.core = EngineCore(FakeRunner(num_blocks), SchedulerLimits(batch, step_tokens), MAX_MODEL_LEN)
        self.submits: dict[int, Submit] = {}
        self.tokens: dict[int, list[int]] = {}
        self.scored: dict[int, list[int]] = {}
        self.finish: dict[int, str] = {}
        self.alone: set[int] = set()

    @rule(
        family=st.integers(0, 2),
        num_prompt=st.integers(1, 70),
        max_tokens=st.integers(0, 25),
        num_forced=st.integers(0, 5),
        priority=st.integers(0, 1),
        same_group=st.booleans(),
        scored=st.booleans(),
        alone=st.sampled_from([False, False, False, True]),
    )
    def add(
        self,
        family: int,
        num_prompt: int,
        max_tokens: int,
        num_forced: int,
        priority: int,
        same_group: bool,
        scored: bool,
        alone: bool,
    ) -> None:
        seq_id = len(self.submits)
        prompt = [(3 * i + family) % 900 for i in range(num_prompt)]
        seed = seq_id % 3
        forced = model_completion(prompt, seed, min(num_forced, max_tokens))
        self.submits[seq_id] = Submit(
            seq_id=seq_id,
            group=0 if same_group else seq_id,
            prompt=prompt,
            forced=forced,
            sampling=SamplingParams(seed=seed),
            max_tokens=max_tokens,
            prompt_logprobs=0 if scored or max_tokens == 0 else -1,
            priority=priority,
            arrival=seq_id,
            alone=alone,
        )
        self.tokens[seq_id] = list(forced)
        self.scored[seq_id] = []
        if alone:
            self.alone.add(seq_id)
        self.core.submit(self.submits[seq_id])

    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    @rule(back=st.integers(0, 6))
    def abort(self, back: int) -> None:
        self.core.abort([len(self.submits) - 1 - back])

    @invariant()
    def blocks_are_consistent(self) -> None:
        if hasattr(self, "core"):
            self.core.blocks.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        # Every step must advance somebody: rows of all tokens, times the preemptions a pool this small can cause.
        for _ in range(200 * (len(self.submits) + 1)):
            if not (self.core.has_work or self.core.has_news):
                break
            self._step()
        assert not self.core.has_work
        assert self.core.blocks.num_used == 0
        assert self.finish.keys() == self.submits.keys()
        for seq_id, submit in self.submits.items():
            if (
                self.finish[seq_id] == "length"
                and submit.max_tokens == 0
                and len(submit.prompt) <= self.core.max_model_len
            ):
                assert self.scored[seq_id] == submit.prompt[1:]

    def _step(self) -> None:
        had_work = self.core.has_work
        started: list[int] = []
        done = self.core.step(lambda message: started.extend(seq_id for seq_id, *_ in message.sequences))
        assert bool(started) == had_work  # no step is wasted
        assert len(started) == 1 or not self.alone & set(started)
        for piece in done.prompt_logprobs:
            assert piece.start == len(self.scored[piece.seq_id]) + 1
            self.scored[piece.seq_id] += [entry.token for entry in piece.entries]
        for event in done.tokens:
            submit = self.submits[event.seq_id]
            tokens = self.tokens[event.seq_id]
            assert event.seq_id not in self.finish
            assert event.index == len(tokens)
            tokens.append(event.token)
            self.alone.discard(event.seq_id)
            assert tokens == model_completion(submit.prompt, submit.sampling.seed, len(tokens))
            if event.finish:
                self.finish[event.seq_id] = event.finish
        for end in done.ends:
            assert end.seq_id not in self.finish
            self.finish[end.seq_id] = end.finish
            self.alone.discard(end.seq_id)


EngineMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_interleaving_keeps_the_promises = EngineMachine.TestCase


@settings(max_examples=40, deadline=None)
@given(
    num_blocks=st.integers(5, 14),
    batch=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=6),
    alone=st.booleans(),
)
def test_younger_ones_that_never_stop_coming_starve_nobody(
    num_blocks: int, batch: int, arrivals: list[tuple[int, int]], alone: bool
) -> None:
    core = EngineCore(FakeRunner(num_blocks), SchedulerLimits(batch, 16), MAX_MODEL_LEN)
    old_tokens = 40
    waiting = 0

    def add(seq_id: int, num_prompt: int, max_tokens: int, **fields: bool) -> None:
        prompt = [(3 * i + seq_id) % 900 for i in range(num_prompt)]
        core.submit(
            Submit(
                seq_id=seq_id,
                group=seq_id,
                prompt=prompt,
                sampling=SamplingParams(seed=1),
                max_tokens=max_tokens,
                arrival=seq_id,
                **fields,
            )
        )

    for seq_id in range(batch):  # every place is taken already
        add(seq_id, *arrivals[seq_id % len(arrivals)])
    core.step()
    add(100, 39, old_tokens, alone=alone)
    for step in range(400):
        while waiting < 5:
            add(200 + 10 * step + waiting, *arrivals[waiting % len(arrivals)])
            waiting += 1
        done = core.step()
        waiting = done.stats.num_waiting
        if any(event.seq_id == 100 and event.finish for event in done.tokens):
            return
    raise AssertionError("the older sequence does not come to its end")

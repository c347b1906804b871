"""The engine: sequences in, steps out. Synchronous; owns the scheduler, the block bookkeeping and the runner.

A step is: schedule -> withdraw the seals of reused blocks -> one native call -> append tokens, seal full blocks, end what is
finished. The order is what makes blocks safe to adopt after a crash at any point: a seal is gone before its block is
written, and set only once the block is full and the step that filled it is over.

A sequence with a grammar is *held* until that is compiled: the scheduler does not know of it, ending it works as ever.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, NamedTuple

from tritserve.engine.batch import CHOOSE, build_batch
from tritserve.engine.block_hash import BLOCK_TOKENS
from tritserve.engine.block_manager import BlockManager
from tritserve.engine.grammar_threads import GrammarThreads
from tritserve.engine.model_runner import NO_TOKEN, NONFINITE_TOKEN, Choice, ModelRunner
from tritserve.engine.sampling import SamplerInputs, find_fault, sampler_inputs
from tritserve.engine.scheduler import Schedule, Scheduler, SchedulerLimits
from tritserve.engine.sequence import Sequence, State, Transition
from tritserve.protocol import EndEvent, PromptLogprobs, StepDone, StepStarted, StepStats, TokenEvent, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tritserve.engine.batch import Batch, Output
    from tritserve.engine.grammar import Matcher
    from tritserve.engine.scheduler import Rows
    from tritserve.protocol import FinishReason, Submit


_FAULTS: dict[int, FinishReason] = {NONFINITE_TOKEN: "numeric_fault", NO_TOKEN: "no_token"}


class _Results(NamedTuple):
    tokens: list[TokenEvent]
    scores: list[PromptLogprobs]
    mask_seconds: list[float]


class EngineCore:
    """Run sequences on a model. Not thread-safe."""

    def __init__(self, runner: ModelRunner, limits: SchedulerLimits, max_model_len: int) -> None:
        info = runner.info
        self.blocks = BlockManager(info.num_blocks)
        # A sequence that fills the pool must fit alone: otherwise it could wait for ever.
        self.max_model_len = min(max_model_len, info.num_blocks * BLOCK_TOKENS)
        self._vocab = info.vocab
        self._runner = runner
        self._scheduler = Scheduler(self.blocks, limits)
        self._sequences: dict[int, Sequence] = {}
        self._samplers: dict[int, SamplerInputs] = {}
        self._held: dict[int, Sequence] = {}
        self._matchers: dict[int, Matcher] = {}
        self.grammars = GrammarThreads(runner.read_vocabulary)
        self._ends: list[EndEvent] = []
        self._step = 0

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would run the model."""
        return self._scheduler.has_work

    @property
    def has_news(self) -> bool:
        """Whether sequences ended since the last step."""
        return bool(self._ends)

    def adopt_blocks(self) -> int:
        """Make whole blocks of an earlier process findable. Returns how many; only before the first step.

        All others lose whatever seal they have: they are blank from now on and will be written without a further look.
        """
        survivors = self._runner.surviving_blocks()
        num_adopted = self.blocks.adopt(survivors)
        for block in self.blocks.blank_blocks():
            self._runner.invalidate(block)
        return num_adopted

    def self_test(self) -> None:
        """Run the runner's self-test in a borrowed block. Raises ModelFileError."""
        borrowed = self.blocks.allocate(1)
        self._withdraw_stale_seals()
        self._runner.self_test(borrowed[0])
        self.blocks.release(borrowed)

    def submit(self, submit: Submit) -> None:
        """Queue a sequence; what cannot run at all ends at once, with an event."""
        if submit.seq_id in self._sequences:
            raise ValueError(f"sequence {submit.seq_id} exists already")
        finish = self._finish_at_once(submit)
        if finish is not None:
            self._ends.append(EndEvent(submit.seq_id, finish))
            return
        sequence = Sequence(submit)
        self._sequences[submit.seq_id] = sequence
        sampler = self._samplers[submit.seq_id] = sampler_inputs(submit, self._vocab)
        if submit.grammar is None or not sequence.chooses:
            self._scheduler.add(sequence)
        else:
            self._held[submit.seq_id] = sequence
            self.grammars.compile(submit, sampler.mask)

    def release_compiled(self) -> None:
        """Give the scheduler the sequences whose grammars are there; call it before ``has_work`` is asked."""
        for seq_id, matcher in self.grammars.take_compiled():
            sequence = self._held.pop(seq_id, None)
            if sequence is None:
                continue  # ended meanwhile
            self._scheduler.add(sequence)
            if matcher is None:
                self._end(sequence, "grammar_too_complex")
                continue
            self._matchers[seq_id] = matcher
            self._samplers[seq_id] = dataclasses.replace(
                self._samplers[seq_id], mask=matcher.mask, mask_ready=matcher.ready
            )

    def abort(self, seq_ids: Iterable[int]) -> None:
        """End sequences and free their blocks now; unknown ids are ignored."""
        for seq_id in seq_ids:
            if seq_id in self._sequences:
                self._end(self._sequences[seq_id], "cancelled")

    def step(self, on_start: Callable[[StepStarted], None] = lambda started: None) -> StepDone:
        """Run one model step if there is work, and report everything since the last one.

        ``on_start`` hears the step's sequences just before the native call. Raises what the runner raises; the
        engine is then no longer usable.
        """
        started = time.perf_counter()
        num_evictions, head = self.blocks.num_evictions, self._runner.head_counts()
        schedule = self._scheduler.schedule() if self._scheduler.has_work else Schedule()
        results = _Results([], [], [])
        if schedule.rows:
            self._step += 1
            on_start(StepStarted(self._step, [_extent(rows) for rows in schedule.rows]))
            results = self._run(schedule)
        head_after = self._runner.head_counts()
        num_decode_rows = sum(1 for event in results.tokens if event.index > 0)
        ends, self._ends = self._ends, []
        return StepDone(
            step=self._step,
            tokens=results.tokens,
            ends=ends,
            prompt_logprobs=results.scores,
            cached=[(sequence.seq_id, min(count, sequence.num_prompt)) for sequence, count in schedule.admitted],
            stats=StepStats(
                seconds=time.perf_counter() - started,
                num_decode_rows=num_decode_rows,
                num_prefill_rows=schedule.num_rows - num_decode_rows,
                num_cached_tokens=sum(count for _, count in schedule.admitted),
                num_running=len(self._scheduler.running),
                num_waiting=len(self._scheduler.waiting) + len(self._held),
                num_used_blocks=self.blocks.num_used,
                num_evictions=self.blocks.num_evictions - num_evictions,
                num_preemptions=schedule.num_preempted,
                mask_seconds=results.mask_seconds,
                num_screened_rows=head_after.screened - head.screened,
                num_undecided_rows=head_after.undecided - head.undecided,
                num_finished_candidates=head_after.finished - head.finished,
            ),
        )

    def _finish_at_once(self, submit: Submit) -> FinishReason | None:
        if find_fault(submit, self._vocab) is not None:
            return "rejected"
        num_tokens = len(submit.prompt) + len(submit.forced)
        if submit.max_tokens == 0:
            return "length" if num_tokens > self.max_model_len or len(submit.prompt) == 1 else None
        if len(submit.forced) >= submit.max_tokens or num_tokens >= self.max_model_len:
            return "length"
        return None

    def _run(self, schedule: Schedule) -> _Results:
        batch = build_batch(schedule, self._samplers)
        self._withdraw_stale_seals()
        choices, mask_seconds = self._compute(batch)
        for rows in schedule.rows:
            self._advance(rows)
        results = _Results([], [], mask_seconds)
        for output, choice in zip(batch.outputs, choices, strict=True):
            if output.sequence.state is State.ENDED:
                continue  # an earlier row of it had a fault
            finish = self._refusal(output, choice)
            if finish is not None:
                self._end(output.sequence, finish)
            elif output.target >= 0:
                self._score(output, choice, results.scores)
            else:
                self._append(output.sequence, choice, results.tokens)
        for rows in schedule.rows:
            sequence = rows.sequence
            if sequence.state is State.RUNNING and not sequence.chooses and sequence.num_pending == 0:
                self._end(sequence, "length")
        return results

    def _compute(self, batch: Batch) -> tuple[list[Choice], list[float]]:
        """Run the native call, with the masks of grammars computed beside it; return the choices and the seconds the masks took."""
        chosen = (output.sequence.seq_id for output in batch.outputs if output.target == CHOOSE)
        matchers = [self._matchers[seq_id] for seq_id in chosen if seq_id in self._matchers]
        if not matchers:
            return self._runner.step(batch), []
        self.grammars.begin_masks(matchers)
        choices = self._runner.step(batch)
        return choices, self.grammars.end_masks()

    def _refusal(self, output: Output, choice: Choice) -> FinishReason | None:
        """Say why a choice cannot stand. A token of a sequence with a grammar stands once the grammar has taken it."""
        sequence, token = output.sequence, choice.token
        matcher = self._matchers.get(sequence.seq_id) if output.target == CHOOSE else None
        if matcher is None or token == NONFINITE_TOKEN:
            return _FAULTS.get(token)
        if matcher.error is not None:
            return "grammar_too_complex"
        if token == NO_TOKEN:
            return "no_token" if matcher.is_complete else "grammar_dead_end"
        if token in sequence.stop_token_ids or matcher.accept((token,)):
            return None
        return "grammar_too_complex"

    def _withdraw_stale_seals(self) -> None:
        for block in self.blocks.drain_stale():
            self._runner.invalidate(block)

    def _advance(self, rows: Rows) -> None:
        """Count computed rows and seal the blocks they filled."""
        sequence = rows.sequence
        sequence.num_computed += rows.num_rows
        num_full = sequence.num_computed // BLOCK_TOKENS
        if num_full == sequence.num_committed_blocks:
            return
        hashes = sequence.full_block_hashes(sequence.num_computed)
        for index in range(sequence.num_committed_blocks, num_full):
            block = sequence.blocks[index]
            if self.blocks.commit(block, hashes[index]):
                self._runner.commit(block, hashes[index])
        sequence.num_committed_blocks = num_full

    def _append(self, sequence: Sequence, choice: Choice, events: list[TokenEvent]) -> None:
        sequence.tokens.append(choice.token)
        sequence.alone = False  # It got through a step of its own: no longer a suspect.
        finish = sequence.finish_after(choice.token, self.max_model_len)
        index = sequence.num_completion - 1
        events.append(TokenEvent(sequence.seq_id, index, choice.token, choice.logprob, choice.top, finish))
        if finish is not None:
            self._forget(sequence)

    def _score(self, output: Output, choice: Choice, scores: list[PromptLogprobs]) -> None:
        sequence = output.sequence
        if not scores or scores[-1].seq_id != sequence.seq_id:
            scores.append(PromptLogprobs(sequence.seq_id, sequence.num_scored + 1, []))
        scores[-1].entries.append(TokenLogprob(output.target, choice.logprob, choice.top))
        sequence.num_scored += 1

    def _end(self, sequence: Sequence, finish: FinishReason) -> None:
        self._ends.append(EndEvent(sequence.seq_id, finish))
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        if self._held.pop(sequence.seq_id, None) is None:
            self._scheduler.end(sequence)
        else:
            sequence.move(Transition.END)
        del self._sequences[sequence.seq_id]
        del self._samplers[sequence.seq_id]
        self._matchers.pop(sequence.seq_id, None)


def _extent(rows: Rows) -> tuple[int, int, int]:
    start = rows.sequence.num_computed
    return rows.sequence.seq_id, start, start + rows.num_rows

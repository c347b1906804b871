"""Who takes part in the next step, and with how many rows. Pure and deterministic: no clock, no log, no memory.

Continuous batching with chunked prefill (Agrawal et al. 2024, section 4): every step takes the decode rows of all running sequences
first, then prefill chunks up to a row budget, so that a long prompt delays a running stream by a bounded step. Waiting
sequences are admitted in (priority, arrival) order as long as their blocks are free; when a running one needs a block and none
is free, the youngest running one gives up its blocks (Kwon et al. 2023, section 4.5). They stay cached while memory lasts, so
that it mostly continues where it was.

Why nothing starves: blocks are taken from younger sequences only, so the oldest always advances; nobody is admitted past a
waiting sequence that does not fit; and the pool holds at least one sequence of ``max_model_len``.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from tritserve.engine.block_hash import BLOCK_TOKENS, blocks_for
from tritserve.engine.sequence import Sequence, State, Transition

if TYPE_CHECKING:
    from tritserve.engine.block_manager import BlockManager

_ORDER = attrgetter("order")
MAX_SCORING_ROWS = 64
"""Rows per step of sequences that score their prompt: each is an output row, and a session reserves memory for those."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one step: sequences, rows. ``max_batch_size`` must not exceed ``max_step_tokens``: a decode row each must fit."""

    max_batch_size: int
    max_step_tokens: int


@dataclass(frozen=True, slots=True)
class Rows:
    """``num_rows`` rows of a sequence, from its first token without K and V on."""

    sequence: Sequence
    num_rows: int


@dataclass(slots=True)
class Schedule:
    """One step. ``admitted`` pairs sequences admitted for the first time with their tokens found in the cache."""

    rows: list[Rows] = field(default_factory=list)
    admitted: list[tuple[Sequence, int]] = field(default_factory=list)
    num_preempted: int = 0
    num_rows: int = 0
    num_scoring_rows: int = 0

    def take(self, sequence: Sequence, max_step_tokens: int) -> None:
        """Add as many rows of a running sequence as the step still has room for."""
        scores = sequence.num_scored < sequence.num_to_score
        num_rows = min(sequence.num_pending, max_step_tokens - self.num_rows)
        if scores:
            num_rows = min(num_rows, MAX_SCORING_ROWS - self.num_scoring_rows)
        if num_rows > 0:
            self.rows.append(Rows(sequence, num_rows))
            self.num_rows += num_rows
            self.num_scoring_rows += num_rows if scores else 0


class Scheduler:
    """The waiting and the running sequences, both in (priority, arrival) order."""

    def __init__(self, blocks: BlockManager, limits: SchedulerLimits) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._blocks = blocks
        self._limits = limits
        self._alone_next = True

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a waiting sequence."""
        insort(self.waiting, sequence, key=_ORDER)

    def end(self, sequence: Sequence) -> None:
        """Take a sequence out and return its blocks, at once."""
        (self.waiting if sequence.state is State.WAITING else self.running).remove(sequence)
        sequence.move(Transition.END)
        self._blocks.release(sequence.take_blocks())

    def schedule(self) -> Schedule:
        """Choose the next step; empty only if there is no work.

        A suspect (``alone``) gets every second step for itself; the others share the rest.
        """
        step = Schedule()
        suspects = any(sequence.alone for sequence in (*self.running, *self.waiting))
        turns = (self._alone_next, not self._alone_next) if suspects else (False,)
        for alone in turns:
            if alone:
                self._fill_alone(step)
            else:
                self._fill_shared(step, admit=not self._suspect_is_held_up())
            if step.rows:
                self._alone_next = not alone
                break
        return step

    def _fill_alone(self, step: Schedule) -> None:
        suspect = next((sequence for sequence in self.running if sequence.alone), None)
        if suspect is None:
            suspect = next(sequence for sequence in self.waiting if sequence.alone)
            if not self._admit(suspect, step):
                return
        if self._grow(suspect, step):
            step.take(suspect, self._limits.max_step_tokens)

    def _fill_shared(self, step: Schedule, *, admit: bool) -> None:
        for sequence in [s for s in self.running if s.is_decoding and not s.alone]:
            # An earlier one may have taken this one's blocks: it is the younger.
            if sequence.state is State.RUNNING and self._grow(sequence, step):
                step.take(sequence, self._limits.max_step_tokens)
        for sequence in [s for s in self.running if not s.is_decoding and not s.alone]:
            step.take(sequence, self._limits.max_step_tokens)
        if admit:
            self._admit_waiting(step)

    def _admit_waiting(self, step: Schedule) -> None:
        for sequence in [s for s in self.waiting if not s.alone]:
            full = len(self.running) >= self._limits.max_batch_size
            if full or step.num_rows >= self._limits.max_step_tokens:
                return
            if self._waits_for_group(sequence):
                continue
            if not self._admit(sequence, step):
                return
            step.take(sequence, self._limits.max_step_tokens)

    def _admit(self, sequence: Sequence, step: Schedule) -> bool:
        """Give a waiting sequence blocks for all its tokens, as many as possible from the cache; False if they are not there."""
        if len(self.running) >= self._limits.max_batch_size:
            return False
        hits = self._blocks.lookup(sequence.full_block_hashes(sequence.num_reusable))
        num_new = blocks_for(sequence.num_tokens) - len(hits)
        # One more block for every running sequence: admitting into the last block would only preempt at the next one.
        if not self._blocks.can_allocate(num_new + len(self.running), hits):
            return False
        self._blocks.share(hits)
        sequence.give_blocks(hits + self._blocks.allocate(num_new))
        sequence.num_computed = len(hits) * BLOCK_TOKENS
        sequence.num_committed_blocks = len(hits)
        self.waiting.remove(sequence)
        sequence.move(Transition.ADMIT)
        insort(self.running, sequence, key=_ORDER)
        if not sequence.was_admitted:
            sequence.was_admitted = True
            step.admitted.append((sequence, sequence.num_computed))
        return True

    def _grow(self, sequence: Sequence, step: Schedule) -> bool:
        """Make room for its newest token, from the youngest if need be; False if it was itself the youngest and is waiting now."""
        while blocks_for(sequence.num_tokens) > len(sequence.blocks):
            if self._blocks.num_free:
                sequence.give_blocks(self._blocks.allocate(1))
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            step.num_preempted += 1
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.move(Transition.PREEMPT)
        self._blocks.release(sequence.take_blocks())
        insort(self.waiting, sequence, key=_ORDER)

    def _waits_for_group(self, sequence: Sequence) -> bool:
        """Whether a running choice of the same request is about to fill blocks that this one could hit."""
        return sequence.num_prompt > BLOCK_TOKENS and any(
            other.group == sequence.group and other.num_computed < other.num_prompt - 1 for other in self.running
        )

    def _suspect_is_held_up(self) -> bool:
        """Whether a suspect waits for blocks or a place: then nobody else is admitted, or it would wait for ever."""
        waiting = any(sequence.alone for sequence in self.waiting)
        return waiting and not any(sequence.alone for sequence in self.running)

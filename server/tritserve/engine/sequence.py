"""One sequence (one choice of one request) in the worker, and the states it goes through.

    WAITING --admit--> RUNNING --end--> ENDED
       ^                  |
       +-----preempt------+          WAITING --end--> ENDED

A running sequence prefills while it has more than one token without K and V, and decodes when it has exactly one.
Preemption takes its blocks and nothing else: its tokens stay, and computing them again gives the same ones.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from tritserve.engine.block_hash import BLOCK_TOKENS, block_hash, root_hash
from tritserve.engine.tokens import Int32Buffer

if TYPE_CHECKING:
    from tritserve.engine.block_manager import BlockId
    from tritserve.protocol import FinishReason, Submit


class State(StrEnum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Transition(StrEnum):
    """What can happen to it."""

    ADMIT = "admit"
    PREEMPT = "preempt"
    END = "end"


TRANSITIONS: dict[tuple[State, Transition], State] = {
    (State.WAITING, Transition.ADMIT): State.RUNNING,
    (State.WAITING, Transition.END): State.ENDED,
    (State.RUNNING, Transition.PREEMPT): State.WAITING,
    (State.RUNNING, Transition.END): State.ENDED,
}


class IllegalTransition(Exception):
    """A transition that the table does not have: a bug in the engine."""


class Sequence:
    """Tokens, progress and blocks of one sequence. ``submit`` must be valid for the model (``EngineCore.submit`` checks)."""

    def __init__(self, submit: Submit) -> None:
        self.submit = submit
        self.seq_id = submit.seq_id
        self.group = submit.group
        self.order = (-submit.priority, submit.arrival, submit.seq_id)  # smaller: sooner
        self.alone = submit.alone
        self.state = State.WAITING
        self.num_prompt = len(submit.prompt)
        self.tokens = Int32Buffer(submit.prompt)
        self.tokens.extend(submit.forced)
        self.stop_token_ids = frozenset(submit.stop_token_ids)
        self.num_computed = 0  # tokens whose K and V are in the blocks
        self.num_committed_blocks = 0
        self.num_scored = 0  # prompt rows whose log-probabilities were delivered
        self.was_admitted = False
        self.blocks: list[BlockId] = []
        self.block_table = Int32Buffer()
        self._hashes = [root_hash(submit.cache_salt)]

    def move(self, transition: Transition) -> None:
        """Change state. Raises IllegalTransition."""
        target = TRANSITIONS.get((self.state, transition))
        if target is None:
            raise IllegalTransition(f"sequence {self.seq_id}: {transition} while {self.state}")
        self.state = target

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens so far."""
        return len(self.tokens)

    @property
    def num_completion(self) -> int:
        """Completion tokens so far, forced ones included."""
        return len(self.tokens) - self.num_prompt

    @property
    def chooses(self) -> bool:
        """Whether it generates at all; with max_tokens 0 it only scores its prompt."""
        return self.submit.max_tokens > 0

    @property
    def num_pending(self) -> int:
        """Tokens still to be computed before something can be delivered. Scoring needs no row for the last prompt token."""
        return self.num_tokens - self.num_computed - (0 if self.chooses else 1)

    @property
    def is_decoding(self) -> bool:
        """Whether its next row is its newest completion token."""
        return self.num_completion > 0 and self.num_pending == 1

    @property
    def num_to_score(self) -> int:
        """Prompt rows whose log-probabilities are asked for; row p scores prompt token p + 1."""
        return self.num_prompt - 1 if self.submit.prompt_logprobs >= 0 else 0

    @property
    def num_reusable(self) -> int:
        """Tokens that may come from the prefix cache: never the last one, and no prompt row that must still be scored."""
        limit = self.num_tokens - 1
        return limit if self.num_scored >= self.num_to_score else min(limit, self.num_scored)

    def full_block_hashes(self, num_tokens: int) -> list[bytes]:
        """Return the names of the full blocks within the first ``num_tokens`` tokens."""
        count = num_tokens // BLOCK_TOKENS
        while len(self._hashes) <= count:
            start = (len(self._hashes) - 1) * BLOCK_TOKENS
            self._hashes.append(block_hash(self._hashes[-1], self.tokens.view(start, start + BLOCK_TOKENS)))
        return self._hashes[1 : count + 1]

    def give_blocks(self, blocks: list[BlockId]) -> None:
        """Append blocks to its table."""
        self.blocks += blocks
        self.block_table.extend(blocks)

    def take_blocks(self) -> list[BlockId]:
        """Return its blocks and forget everything computed into them."""
        blocks, self.blocks = self.blocks, []
        self.block_table.clear()
        self.num_computed = 0
        self.num_committed_blocks = 0
        return blocks

    def finish_after(self, token: int, max_model_len: int) -> FinishReason | None:
        """Say whether ``token``, just appended, is the last one."""
        if token in self.stop_token_ids and self.num_completion > self.submit.min_tokens:
            return "stop"
        if self.num_completion >= self.submit.max_tokens or self.num_tokens >= max_model_len:
            return "length"
        return None

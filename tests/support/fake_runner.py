"""A deterministic model whose KV cache is real: every K and V cell holds the token that was computed into it.

The next token is a hash of all tokens *read back through the block table*, so a block that is shared, reused, adopted or
freed wrongly changes the answer. Certain prompt tokens make it misbehave.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np

from tritserve.engine.model_runner import NO_TOKEN, NONFINITE_TOKEN, Choice, HeadCounts, RunnerInfo
from tritserve.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tritserve.engine.batch import Batch, Output

VOCAB = 1000
EOS = 0
CRASH = 901  # as the newest token of a row: the process dies
HANG = 902  # the step never ends
FAULT = 903  # the logits are not finite
BLOCK = 16
RECORD_BYTES = 4 * BLOCK + 40


FIRST_BYTE = 100
"""Ids from here on stand for the 256 bytes; those below are special tokens, those above no tokens at all."""


def vocabulary() -> Vocabulary:
    """Return what the ids stand for to a grammar."""
    specials = [b"<|%d|>" % token for token in range(FIRST_BYTE)]
    pieces = [*specials, *(bytes([byte]) for byte in range(256))]
    return Vocabulary(pieces + [b""] * (VOCAB - len(pieces)), frozenset(range(FIRST_BYTE)))


def text_of(tokens: list[int]) -> bytes:
    """Return the text of a completion, special tokens left out."""
    return bytes(token - FIRST_BYTE for token in tokens if token >= FIRST_BYTE)


def model_answer(tokens: list[int], seed: int) -> int:
    """Return the next token after ``tokens``: what a sequence running alone must get."""
    digest = hashlib.blake2b(np.array([seed % 2**31, *tokens], "<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 900


def model_completion(prompt: list[int], seed: int, max_tokens: int, stop: frozenset[int] = frozenset()) -> list[int]:
    """Return the completion of a sequence running alone."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens:
        tokens.append(model_answer(tokens, seed))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class FakeRunner:
    """A ModelRunner on ``kv_fd`` (or private memory): per block 16 cells, a mark, and its name."""

    def __init__(self, num_blocks: int, max_positions: int = 4096, kv_fd: int | None = None) -> None:
        size = num_blocks * RECORD_BYTES
        self._memory = mmap.mmap(-1, size) if kv_fd is None else mmap.mmap(kv_fd, size)
        dtype = np.dtype([("cells", "<i4", BLOCK), ("mark", "u1"), ("name", "u1", 32), ("pad", "u1", 7)])
        self.blocks = np.frombuffer(self._memory, dtype)
        if kv_fd is None:
            self.blocks["cells"] = -99  # what was never written must show
        self.info = RunnerInfo(VOCAB, max_positions, num_blocks, RECORD_BYTES, "fake", "fake", 1)
        self.num_steps = 0
        self.num_rows = 0

    def step(self, batch: Batch) -> list[Choice]:
        """Write every row's cell, then answer the outputs from the cells."""
        self.num_steps += 1
        self.num_rows += len(batch.token_ids)
        owner = np.repeat(np.arange(len(batch.start_pos)), np.diff(batch.cu_rows))
        written: set[tuple[int, int]] = set()
        for row, token in enumerate(batch.token_ids.tolist()):
            self._misbehave(token)
            position = self._position(batch, owner[row], row)
            block = int(batch.block_tables[owner[row], position // BLOCK])
            if self.blocks["mark"][block]:
                raise AssertionError(f"block {block} is written while sealed")
            if (block, position % BLOCK) in written:
                raise AssertionError(f"block {block} is written by two sequences")
            written.add((block, position % BLOCK))
            self.blocks["cells"][block, position % BLOCK] = token
        return [self._answer(batch, owner, output) for output in batch.outputs]

    def head_counts(self) -> HeadCounts:
        return HeadCounts(0, 0, 0)

    def commit(self, block: int, digest: bytes) -> None:
        self.blocks["name"][block] = np.frombuffer(digest, "u1")
        self.blocks["mark"][block] = 1

    def invalidate(self, block: int) -> None:
        self.blocks["mark"][block] = 0

    def surviving_blocks(self) -> dict[int, bytes]:
        return {int(block): self.blocks["name"][block].tobytes() for block in np.nonzero(self.blocks["mark"])[0]}

    def self_test(self, block: int) -> None:
        if self.blocks["mark"][block]:
            raise AssertionError("the self-test got a sealed block")

    def read_vocabulary(self) -> Vocabulary:
        return vocabulary()

    def close(self) -> None:
        pass

    def _answer(self, batch: Batch, owner: np.ndarray, output: Output) -> Choice:
        sequence = owner[output.row]
        position = self._position(batch, sequence, output.row)
        table = batch.block_tables[sequence]
        seen = [int(self.blocks["cells"][table[at // BLOCK], at % BLOCK]) for at in range(position + 1)]
        if seen != output.history.tolist():
            raise AssertionError("the cache and the history disagree")
        if FAULT in seen:
            return Choice(NONFINITE_TOKEN, 0.0, [])
        token = output.target if output.target >= 0 else model_answer(seen, output.sampler.params.seed)
        if output.target < 0 and output.sampler.mask is not None:
            allowed = self._allowed(output)
            if not len(allowed):
                return Choice(NO_TOKEN, 0.0, [])
            token = int(allowed[token % len(allowed)])
        return Choice(token, -position / 8, [(token, -position / 8)] * max(output.num_top, 0))

    @staticmethod
    def _allowed(output: Output) -> np.ndarray:
        """Return the ids of the mask, once it is there, as native code reads it."""
        ready = output.sampler.mask_ready
        deadline = time.monotonic() + 30
        while ready is not None and not ready[0]:
            if time.monotonic() > deadline:
                raise AssertionError("the mask does not become ready")
        bits = np.unpackbits(output.sampler.mask.view(np.uint8), bitorder="little")
        allowed = np.nonzero(bits)[0]
        return np.setdiff1d(allowed, output.sampler.suppressed) if output.suppress else allowed

    @staticmethod
    def _position(batch: Batch, sequence: int, row: int) -> int:
        return int(batch.start_pos[sequence]) + row - int(batch.cu_rows[sequence])

    @staticmethod
    def _misbehave(token: int) -> None:
        if token == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if token == HANG:
            signal.pause()

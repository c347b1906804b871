"""The real model behind the engine's seam: libtrit over a packed file and the shared KV memory."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from tritserve.engine.block_hash import BLOCK_TOKENS
from tritserve.engine.model_runner import Choice, HeadCounts, RunnerInfo
from tritserve.engine.scheduler import MAX_SCORING_ROWS
from tritserve.errors import ModelFileError, NativeError
from tritserve.isa import Isa
from tritserve.kv_dtype import KvDtype
from tritserve.model.packed_file import open_packed
from tritserve.native import lib
from tritserve.native.types import GREEDY, Output, Sampling, StepBatch
from tritserve.protocol import KernelTime
from tritserve.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from tritserve.engine import batch
    from tritserve.model.packed_file import KnownAnswer
    from tritserve.protocol import Start
    from tritserve.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MAX_BLOCKS = 1 << 17
"""Blocks a pool may have: two million tokens. Past that the bookkeeping, not the memory, would be the limit."""


class NativeRunner:
    """A ModelRunner over ``Model``, ``KvPool`` and ``Session``; closes them in reverse order."""

    def __init__(self, start: Start, kv_fd: int) -> None:
        """Map the model, attach the KV memory and make a session. Raises ModelFileError or NativeError."""
        with ExitStack() as stack:
            packed = stack.enter_context(open_packed(Path(start.model_path)))
            architecture = packed.header.architecture
            self._model = stack.enter_context(
                lib.Model(
                    packed.fd,
                    architecture,
                    packed.header.tensors,
                    isa=Isa.named(start.isa),
                    calibrate=start.calibrate,
                    n_threads=start.num_threads,
                )
            )
            dtype = KvDtype.named(start.kv_dtype)
            num_blocks = blocks_within(self._model, start.kv_bytes, dtype)
            self._kv = stack.enter_context(_attach(self._model, kv_fd, num_blocks, dtype))
            self._session = stack.enter_context(
                lib.Session(
                    self._model,
                    self._kv,
                    n_threads=start.num_threads,
                    max_rows=start.max_step_tokens,
                    max_seqs=start.max_batch_size,
                    max_outputs=start.max_batch_size + MAX_SCORING_ROWS,
                )
            )
            self._known_answer = packed.header.known_answer
            self._tests_own_kv = dtype is KvDtype.INT16
            self._model_path = Path(start.model_path)
            self._handles = stack.pop_all()
        self.info = RunnerInfo(
            vocab=architecture.vocab,
            max_positions=architecture.max_positions,
            num_blocks=num_blocks,
            block_bytes=_block_bytes(self._model, dtype),
            isa=self._model.isa.label,
            kernels=" ".join(self._model.kernels),
            num_threads=start.num_threads,
            kernel_times=tuple(KernelTime(t.op, t.kernel, t.seconds, t.chosen) for t in self._model.timings),
        )

    def step(self, batch: batch.Batch) -> list[Choice]:
        """Run one native call. Raises NativeError."""
        choices = self._session.step(
            StepBatch(
                token_ids=batch.token_ids,
                cu_rows=batch.cu_rows,
                start_pos=batch.start_pos,
                block_tables=batch.block_tables,
                outputs=[_native_output(output) for output in batch.outputs],
            )
        )
        return [Choice(c.token, c.logprob, list(zip(c.top_ids, c.top_logprobs, strict=True))) for c in choices]

    def head_counts(self) -> HeadCounts:
        """Return the session's counters of the output head."""
        stats = self._session.stats()
        return HeadCounts(stats.screened_rows, stats.undecided_rows, stats.finished_panels)

    def commit(self, block: int, digest: bytes) -> None:
        """Seal a full block. Raises NativeError."""
        self._kv.commit(block, digest)

    def invalidate(self, block: int) -> None:
        """Withdraw a block's seal. Raises NativeError."""
        self._kv.invalidate(block)

    def surviving_blocks(self) -> dict[int, bytes]:
        """Return the whole blocks of an earlier process with their names. Raises NativeError."""
        found = ((block, self._kv.verify(block)) for block in range(self._kv.n_blocks))
        return {block: digest for block, digest in found if digest is not None}

    def self_test(self, block: int) -> None:
        """Compare the logits of the known tokens with those stored at conversion. Raises ModelFileError."""
        known = self._known_answer
        if known is None:
            return
        digest = hashlib.sha256(self._known_logits(known, block)).hexdigest()
        if digest != known.logits_sha256:
            raise ModelFileError(
                f"self-test failed on {self.info.isa}: SHA-256 of the known tokens' logits is {digest}, expected "
                f"{known.logits_sha256}; the file is damaged, or this machine computes wrongly"
            )

    def read_vocabulary(self) -> Vocabulary:
        """Read the tokens' bytes from the model file. Raises ModelFileError."""
        with open_packed(self._model_path) as packed:
            return read_vocabulary(packed.read_tokenizer(), self.info.vocab)

    def close(self) -> None:
        """Release every handle."""
        self._handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known_logits(self, known: KnownAnswer, block: int) -> bytes:
        if self._tests_own_kv:
            return self._logits_of(self._session, known, block)
        # The stored answer is of int16 keys and values: a block of its own, for these few tokens.
        with ExitStack() as stack:
            fd = os.memfd_create("tritserve-self-test", os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            os.ftruncate(fd, self._model.kv_region_bytes(1))
            num_tokens = len(known.token_ids)
            kv = stack.enter_context(lib.KvPool(self._model, fd, 1))
            session = stack.enter_context(
                lib.Session(
                    self._model,
                    kv,
                    n_threads=self.info.num_threads,
                    max_rows=num_tokens,
                    max_seqs=1,
                    max_outputs=num_tokens,
                )
            )
            return self._logits_of(session, known, 0)

    def _logits_of(self, session: lib.Session, known: KnownAnswer, block: int) -> bytes:
        num_tokens = len(known.token_ids)
        logits = np.empty((num_tokens, self.info.vocab), np.float32)
        session.step(
            StepBatch(
                token_ids=np.array(known.token_ids, np.int32),
                cu_rows=np.array([0, num_tokens], np.int32),
                start_pos=np.zeros(1, np.int32),
                block_tables=np.array([[block]], np.int32),
                outputs=[Output(row=row, target=0) for row in range(num_tokens)],
            ),
            logits,
        )
        return logits.astype("<f4", copy=False).tobytes()


def blocks_within(model: lib.Model, kv_bytes: int, dtype: KvDtype = KvDtype.INT16) -> int:
    """Return how many blocks a region of ``kv_bytes`` holds. Raises NativeError if it is not even one."""
    low, high = 0, MAX_BLOCKS
    while low < high:
        middle = (low + high + 1) // 2
        if model.kv_region_bytes(middle, dtype) <= kv_bytes:
            low = middle
        else:
            high = middle - 1
    if not low:
        needed = model.kv_region_bytes(1, dtype)
        raise NativeError("TRIT_ERR_ARGUMENT", f"kv_cache_bytes is {kv_bytes}, but {BLOCK_TOKENS} tokens need {needed}")
    return low


def _block_bytes(model: lib.Model, dtype: KvDtype) -> int:
    return model.kv_region_bytes(2, dtype) - model.kv_region_bytes(1, dtype)


def _attach(model: lib.Model, kv_fd: int, num_blocks: int, dtype: KvDtype) -> lib.KvPool:
    try:
        return lib.KvPool(model, kv_fd, num_blocks, dtype=dtype)
    except NativeError as error:
        # What another model, version or type left is of no use here: start empty rather than not at all.
        logger.warning("kv memory is reset: %s", error)
        return lib.KvPool(model, kv_fd, num_blocks, dtype=dtype, reset=True)


def _native_output(output: batch.Output) -> Output:
    if output.target >= 0:
        return Output(row=output.row, target=output.target, n_top=output.num_top)
    sampler, params = output.sampler, output.sampler.params
    sampling = Sampling(
        seed=params.seed,
        position=len(output.history),
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        top_k=params.top_k,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        history=output.history,
        n_prompt=output.sequence.num_prompt,
        bias_ids=sampler.bias_ids,
        bias_values=sampler.bias_values,
        suppressed=sampler.suppressed if output.suppress else GREEDY.suppressed,
        mask=sampler.mask,
        mask_ready=sampler.mask_ready,
    )
    return Output(row=output.row, n_top=output.num_top, sampling=sampling)

"""The eight-token self-test: a digest of logits that every instruction set must give alike (docs/numerics.md)."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np

from tritserve.errors import ModelFileError
from tritserve.isa import Isa
from tritserve.model.header import NUM_KNOWN_TOKENS, KnownAnswer
from tritserve.native.lib import KvPool, Model, Session
from tritserve.native.types import TOKEN_NONFINITE, Output, StepBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritserve.model.header import Architecture, Header


def logits_digest(model: Model, token_ids: Sequence[int], *, n_threads: int) -> str:
    """Run the tokens from position 0 as one prefill step and return the SHA-256 of their float32 logits, (tokens, vocab) little endian.

    Raises ModelFileError if a logit is not finite, NativeError.
    """
    count = len(token_ids)
    logits = np.empty((count, model.vocab), dtype="<f4")
    fd = os.memfd_create("tritserve-known-answer", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, model.kv_region_bytes(1))
        with (
            KvPool(model, fd, 1) as kv,
            Session(model, kv, n_threads=n_threads, max_rows=count, max_seqs=1, max_outputs=count) as session,
        ):
            batch = StepBatch(
                token_ids=np.array(token_ids, dtype=np.int32),
                cu_rows=np.array([0, count], dtype=np.int32),
                start_pos=np.zeros(1, dtype=np.int32),
                block_tables=np.zeros((1, 1), dtype=np.int32),
                outputs=[Output(row=row) for row in range(count)],
            )
            choices = session.step(batch, logits)
    finally:
        os.close(fd)
    if any(choice.token == TOKEN_NONFINITE for choice in choices):
        raise ModelFileError("the model gives logits that are not finite")
    return hashlib.sha256(logits.data).hexdigest()


def known_tokens(architecture: Architecture) -> list[int]:
    """Return the ids of the known answer: eight, spread over the vocabulary."""
    return [(2 * i + 1) * architecture.vocab // (2 * NUM_KNOWN_TOKENS) for i in range(NUM_KNOWN_TOKENS)]


def compute_known_answer(fd: int, header: Header, *, n_threads: int) -> KnownAnswer | None:
    """Compute the answer by the plain C path from the packed file open at ``fd``; None for a context below eight tokens."""
    if header.architecture.max_positions < NUM_KNOWN_TOKENS:
        return None
    token_ids = known_tokens(header.architecture)
    with Model(fd, header.architecture, header.tensors, isa=Isa.REF, n_threads=n_threads) as model:
        return KnownAnswer(token_ids=token_ids, logits_sha256=logits_digest(model, token_ids, n_threads=n_threads))

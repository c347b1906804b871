"""A process killed at any instant leaves KV blocks that a new one may believe, if they verify."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tiny_model import SMALL, batch_of, chain_hash, kv_memory, make_tiny_model, tokens_of

from tritserve.native.lib import BLOCK_TOKENS, KvPool, Model, Session
from tritserve.native.types import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHILD = Path(__file__).with_name("kill_child.py")
N_BLOCKS = 6


def test_what_verifies_after_a_kill_is_what_was_committed() -> None:
    tiny = make_tiny_model()
    num_adopted = 0
    with tiny.open() as model, tiny.file() as model_fd, kv_memory(model, N_BLOCKS) as kv_fd:
        for attempt in range(4):
            _run_and_kill(model_fd, kv_fd, num_commits=random.Random(attempt).randint(N_BLOCKS, 60))
            num_adopted += _check_survivors(model, kv_fd)
    assert num_adopted == 4 * (N_BLOCKS - 1)  # only the one being written may be lost; where none is, one is given up


def _run_and_kill(model_fd: int, kv_fd: int, num_commits: int) -> None:
    arguments = [sys.executable, str(CHILD), str(model_fd), str(kv_fd), str(N_BLOCKS)]
    with subprocess.Popen(arguments, pass_fds=[model_fd, kv_fd], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(num_commits):
            assert child.stdout.readline()
        child.kill()


def _check_survivors(model: Model, kv_fd: int) -> int:
    """Compare what each surviving block answers with the same tokens computed afresh; return how many survived."""
    num_whole = 0
    with (
        KvPool(model, kv_fd, N_BLOCKS) as kv,
        kv_memory(model, 2) as fresh_fd,
        KvPool(model, fresh_fd, 2) as fresh,
        _session(model, kv) as adopted,
        _session(model, fresh) as truth,
    ):
        digests = {block: digest for block in range(N_BLOCKS) if (digest := kv.verify(block)) is not None}
        spare = next((block for block in range(N_BLOCKS) if block not in digests), None)
        if spare is None:
            spare = N_BLOCKS - 1
            kv.invalidate(spare)
            del digests[spare]
        for block, digest in digests.items():
            turn = int.from_bytes(digest[:16], "little")
            assert digest == chain_hash(turn, block)
            truth.step(batch_of([(tokens_of(turn, block), 0, [0, 1])], []))
            np.testing.assert_array_equal(_next_logits(adopted, [block, spare]), _next_logits(truth, [0, 1]))
            num_whole += 1
    return num_whole


def _session(model: Model, kv: KvPool) -> Session:
    return Session(model, kv, n_threads=1, max_rows=BLOCK_TOKENS, max_seqs=1, max_outputs=1)


def _next_logits(session: Session, blocks: list[int]) -> NDArray[np.float32]:
    logits = np.empty((1, SMALL.vocab), dtype=np.float32)
    session.step(batch_of([([7], BLOCK_TOKENS, blocks)], [Output(row=0)]), logits)
    return logits

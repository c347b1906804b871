"""Child of test_native_kill.py: fill, commit and reuse KV blocks until killed. Arguments: model fd, KV fd, blocks."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1] / "oracle")]

from tiny_model import batch_of, chain_hash, make_tiny_model, tokens_of  # noqa: E402

from tritserve.native.lib import BLOCK_TOKENS, KvPool, Model, Session  # noqa: E402


def main(model_fd: int, kv_fd: int, n_blocks: int) -> None:
    """Write rounds of blocks for ever."""
    tiny = make_tiny_model()
    model = Model(model_fd, tiny.arch, tiny.tensors)
    kv = KvPool(model, kv_fd, n_blocks)
    session = Session(model, kv, n_threads=2, max_rows=BLOCK_TOKENS, max_seqs=1, max_outputs=1)
    for turn in count():
        for block in range(n_blocks):
            kv.invalidate(block)
            session.step(batch_of([(tokens_of(turn, block), 0, [block])], []))
            kv.commit(block, chain_hash(turn, block))
            print(turn, block, flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

"""An engine over libtrit, and whole streams out of it: tokens with their log-probabilities."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tritserve.engine.core import EngineCore
from tritserve.engine.runner import NativeRunner
from tritserve.engine.scheduler import SchedulerLimits
from tritserve.pool.generation import ChoiceToken, GenerationRequest
from tritserve.pool.launch import create_kv_memory
from tritserve.protocol import PROTOCOL_VERSION, Start, Submit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tritserve.protocol import StepDone, TokenEvent

KV_BYTES = 1024 * 1024
Stream = list[tuple[int, float, tuple[tuple[int, float], ...], str | None]]
"""Token, its log-probability, the most likely ones with theirs, finish reason: compared to the last bit."""


@contextmanager
def engine(
    path: Path,
    *,
    isa: str = "auto",
    threads: int = 1,
    batch: int = 8,
    step_tokens: int = 64,
    kv_bytes: int = KV_BYTES,
    num_blocks: int = 0,
    kv_fd: int | None = None,
) -> Iterator[tuple[EngineCore, NativeRunner]]:
    """Yield a started engine and its runner. ``num_blocks`` instead of ``kv_bytes``; ``kv_fd``: KV memory of the caller."""
    if num_blocks:
        with engine(path, isa="ref", kv_bytes=64 * KV_BYTES) as (_, runner):
            kv_bytes = runner._model.kv_region_bytes(num_blocks)
    fd = create_kv_memory(kv_bytes) if kv_fd is None else kv_fd
    start = Start(
        version=PROTOCOL_VERSION,
        model_path=str(path),
        isa=isa,
        num_threads=threads,
        kv_bytes=kv_bytes,
        max_model_len=0,
        max_batch_size=batch,
        max_step_tokens=step_tokens,
    )
    try:
        with NativeRunner(start, fd) as runner:
            core = EngineCore(runner, SchedulerLimits(batch, step_tokens), runner.info.max_positions)
            core.adopt_blocks()
            core.self_test()
            yield core, runner
    finally:
        if kv_fd is None:
            os.close(fd)


def poison_all(runner: NativeRunner) -> None:
    """Fill the KV memory with what would show if it were read before it is written."""
    for block in range(runner.info.num_blocks):
        runner._kv.poison(block)


def run(core: EngineCore, submits: Sequence[Submit], steps: list[StepDone] | None = None) -> dict[int, Stream]:
    """Run to the end and return every stream; what each step reported is appended to ``steps``."""
    streams: dict[int, Stream] = defaultdict(list)
    for submit in submits:
        core.submit(submit)
    while core.has_work or core.has_news:
        done = core.step()
        core.blocks.check_integrity()
        assert not done.ends
        for event in done.tokens:
            streams[event.seq_id].append(frozen(event))
        if steps is not None:
            steps.append(done)
    assert core.blocks.num_used == 0
    return streams


def frozen(event: TokenEvent) -> tuple[int, float, tuple[tuple[int, float], ...], str | None]:
    """Return what is compared of a token."""
    return event.token, event.logprob, tuple(event.top), event.finish


def frozen_choice(event: object) -> tuple[int, float, tuple[tuple[int, float], ...], str | None]:
    """The same, as a pool's reader sees it."""
    assert isinstance(event, ChoiceToken)
    return event.token.token, event.token.logprob, tuple(event.token.top), event.finish


def request_like(submit: Submit) -> GenerationRequest:
    """Return the request that gives a pool the same work."""
    return GenerationRequest(
        request_id="native",
        prompt=submit.prompt,
        choices=[submit.sampling],
        max_tokens=submit.max_tokens,
        min_tokens=submit.min_tokens,
        stop_token_ids=frozenset(submit.stop_token_ids),
    )

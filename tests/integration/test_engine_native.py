"""The engine and the pool over libtrit and a random tiny model: the same request gives the same tokens and log-probabilities,
whatever else runs, however its prompt is cut, whether its prefix is cached, and after its worker was killed."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from native_engine import KV_BYTES, engine, frozen_choice, poison_all, request_like, run
from pool_harness import MACHINE, PATIENT, Recorder

from tritserve.engine.block_hash import blocks_for
from tritserve.errors import ModelFileError
from tritserve.isa import Isa
from tritserve.model.shapes import SHAPES, write_random_model
from tritserve.native.lib import isa_supported
from tritserve.pool.launch import create_kv_memory
from tritserve.pool.process_pool import ProcessPool
from tritserve.protocol import PromptLogprobs, SamplingParams, StepDone, Submit
from tritserve.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from native_engine import Stream

    from tritserve.pool.generation import Generation


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.trit"
    write_random_model(path, SHAPES["tiny"], seed=3, known_answer=True)
    return path


def submit_of(seq_id: int, num_prompt: int, **fields: object) -> Submit:
    """Return one of a family of requests that cover the sampler's parameters."""
    variants = [
        SamplingParams(seed=11, temperature=0.0),
        SamplingParams(seed=12, temperature=1.0, num_top_logprobs=5),
        SamplingParams(seed=13, temperature=0.8, top_p=0.9, top_k=40, min_p=0.01),
        SamplingParams(seed=14, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2),
        SamplingParams(seed=15, logit_bias={5: 4.0, 9: -100.0}, allowed_token_ids=list(range(0, 259, 3))),
    ]
    prompt = [(5 * i + 17 * (seq_id % 3)) % 259 for i in range(num_prompt)]
    submit = Submit(
        seq_id=seq_id,
        group=seq_id,
        prompt=prompt,
        sampling=variants[seq_id % len(variants)],
        max_tokens=24,
        arrival=seq_id,
        min_tokens=4,
        stop_token_ids=[7, 8],
    )
    return msgspec.structs.replace(submit, **fields)


LENGTHS = (3, 20, 70, 33, 100, 64, 15, 81)


@pytest.fixture(scope="module")
def expected(model_path: Path) -> dict[int, Stream]:
    """Each request alone in a fresh engine, plain C."""
    streams = {}
    for seq_id, length in enumerate(LENGTHS):
        with engine(model_path, isa="ref", step_tokens=256) as (core, _):
            streams |= run(core, [submit_of(seq_id, length)])
    return streams


@pytest.mark.parametrize("isa", [isa.label for isa in Isa if isa >= Isa.REF])
@pytest.mark.parametrize(("threads", "batch", "step_tokens"), [(1, 8, 256), (2, 8, 16), (2, 3, 37)])
def test_neighbours_chunks_threads_and_kernels_change_nothing(
    model_path: Path, expected: dict[int, Stream], isa: str, threads: int, batch: int, step_tokens: int
) -> None:
    if not isa_supported(Isa.named(isa)):
        pytest.skip(f"this machine does not run {isa}")
    with engine(model_path, isa=isa, threads=threads, batch=batch, step_tokens=step_tokens) as (core, runner):
        poison_all(runner)
        assert run(core, [submit_of(i, length) for i, length in enumerate(LENGTHS)]) == expected


def test_cached_prefix_changes_nothing(model_path: Path, expected: dict[int, Stream]) -> None:
    with engine(model_path) as (core, _):
        submits = [submit_of(i, length) for i, length in enumerate(LENGTHS)]
        assert run(core, submits) == expected
        assert core.blocks.num_cached > 0
        assert run(core, submits) == expected


def test_preemption_changes_nothing(model_path: Path, expected: dict[int, Stream]) -> None:
    steps: list[StepDone] = []
    num_blocks = blocks_for(max(LENGTHS) + 24)
    with engine(model_path, num_blocks=num_blocks) as (core, runner):
        assert runner.info.num_blocks == num_blocks
        poison_all(runner)
        assert run(core, [submit_of(i, length) for i, length in enumerate(LENGTHS)], steps) == expected
    assert sum(done.stats.num_preemptions for done in steps) > 0


@pytest.mark.parametrize("num_forced", [1, 9, 20])
def test_resumed_in_a_new_engine_on_adopted_blocks_it_goes_on_identically(
    model_path: Path, expected: dict[int, Stream], num_forced: int
) -> None:
    fd = create_kv_memory(KV_BYTES)
    try:
        with engine(model_path, kv_fd=fd) as (core, _):
            for i, length in enumerate(LENGTHS):
                core.submit(submit_of(i, length))
            for _ in range(num_forced + 5):
                core.step()  # left in the middle of everything, as by a kill
        with engine(model_path, kv_fd=fd, step_tokens=50) as (core, _):
            assert core.blocks.num_cached > 0
            submits, rest = [], {}
            for i, length in enumerate(LENGTHS):
                forced = [token for token, *_ in expected[i][:num_forced]]
                if num_forced < len(expected[i]):
                    submits.append(submit_of(i, length, forced=forced))
                    rest[i] = expected[i][num_forced:]
            assert run(core, submits) == rest
    finally:
        os.close(fd)


def test_damaged_blocks_are_not_adopted_and_change_nothing(model_path: Path, expected: dict[int, Stream]) -> None:
    fd = create_kv_memory(KV_BYTES)
    submits = [submit_of(i, length) for i, length in enumerate(LENGTHS)]
    try:
        with engine(model_path, kv_fd=fd) as (core, runner):
            run(core, submits)
            num_cached, num_blocks, block_bytes = (
                core.blocks.num_cached,
                runner.info.num_blocks,
                runner.info.block_bytes,
            )
        with mmap.mmap(fd, KV_BYTES) as memory:
            for start in range(KV_BYTES - num_blocks * block_bytes, KV_BYTES - block_bytes, 3 * block_bytes):
                memory[start + block_bytes // 2] ^= 1  # one bit in every third block
        with engine(model_path, kv_fd=fd) as (core, _):
            assert num_cached // 2 < core.blocks.num_cached < num_cached
            assert run(core, submits) == expected
    finally:
        os.close(fd)


def test_what_another_model_left_in_the_memory_is_dropped(
    model_path: Path, tmp_path: Path, expected: dict[int, Stream]
) -> None:
    write_random_model(tmp_path / "other.trit", SHAPES["tiny"], seed=4)  # the same shape, other weights
    fd = create_kv_memory(KV_BYTES)
    submits = [submit_of(i, length) for i, length in enumerate(LENGTHS)]
    try:
        with engine(tmp_path / "other.trit", kv_fd=fd) as (core, _):
            run(core, submits)
            assert core.blocks.num_cached
        with engine(model_path, kv_fd=fd) as (core, _):
            assert core.blocks.num_cached == 0
            assert run(core, submits) == expected
    finally:
        os.close(fd)


def test_prompt_logprobs_do_not_depend_on_chunks_or_cache(model_path: Path) -> None:
    def scores(step_tokens: int, warm: bool) -> list[object]:
        with engine(model_path, step_tokens=step_tokens) as (core, _):
            if warm:
                run(core, [submit_of(1, 100)])
            core.submit(submit_of(1, 100, prompt_logprobs=3))
            pieces: list[PromptLogprobs] = []
            while core.has_work:
                pieces += core.step().prompt_logprobs
            return [entry for piece in pieces for entry in piece.entries]

    whole = scores(256, warm=False)
    assert len(whole) == 99
    assert scores(16, warm=False) == whole
    assert scores(64, warm=True) == whole


def test_self_test_refuses_a_file_whose_answer_differs(model_path: Path) -> None:
    with engine(model_path) as (core, runner):
        known = runner._known_answer
        assert known is not None
        runner._known_answer = msgspec.structs.replace(known, logits_sha256="0" * 64)
        with pytest.raises(ModelFileError, match="self-test failed"):
            core.self_test()


async def _collect(generation: Generation, pool: ProcessPool, kill_at: frozenset[int] = frozenset()) -> Stream:
    stream: Stream = []
    async for event in generation:
        stream.append(frozen_choice(event))
        if len(stream) in kill_at:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
    return stream


async def test_streams_survive_their_worker_on_the_real_model(model_path: Path, expected: dict[int, Stream]) -> None:
    recorder = Recorder()
    settings = Settings(kv_cache_bytes=KV_BYTES, workers=1, threads=1, max_step_tokens=32, max_batch_size=6)
    pool = ProcessPool(settings, model_path, recorder, machine=MACHINE, timing=PATIENT)
    await pool.start()
    try:
        await recorder.until(lambda: pool.status.ready)
        generations = [await pool.submit(request_like(submit_of(i, n))) for i, n in enumerate(LENGTHS)]
        streams = await asyncio.gather(*[_collect(g, pool, frozenset({3 + 2 * i})) for i, g in enumerate(generations)])
        assert dict(enumerate(streams)) == expected
        assert "crash" in recorder.restarts
        assert recorder.hellos[-1].num_adopted_blocks > 0
    finally:
        await pool.drain(0.0)


@pytest.fixture
def damaged(model_path: Path, tmp_path: Path) -> Path:
    content = bytearray(model_path.read_bytes())
    content[-20] ^= 1
    path = tmp_path / "damaged.trit"
    path.write_bytes(content)
    return path


async def test_a_damaged_model_fails_the_pool_with_its_reason(damaged: Path) -> None:
    recorder = Recorder()
    pool = ProcessPool(Settings(kv_cache_bytes=KV_BYTES, threads=1), damaged, recorder, machine=MACHINE, timing=PATIENT)
    await pool.start()
    await recorder.until(lambda: bool(recorder.restarts))
    await asyncio.sleep(0)
    assert "damaged" in (pool.status.failed or "")
    await pool.drain(0.0)

"""The engine and the pool over libtrit and a random tiny model: the same request gives the same tokens and log-probabilities,
whatever else runs, however its prompt is cut, whether its prefix is cached, and after its worker was killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from pool_harness import MACHINE, PATIENT, Recorder

pytest.importorskip("tritserve.native._trit", reason="the native library is not built")

from tritserve.engine.core import EngineCore
from tritserve.engine.runner import NativeRunner
from tritserve.engine.scheduler import SchedulerLimits
from tritserve.errors import ModelFileError
from tritserve.model.shapes import SHAPES, write_random_model
from tritserve.native.lib import isa_supported
from tritserve.native.types import Isa
from tritserve.pool.generation import ChoiceToken, GenerationRequest
from tritserve.pool.launch import create_kv_memory
from tritserve.pool.process_pool import ProcessPool
from tritserve.protocol import PROTOCOL_VERSION, PromptLogprobs, SamplingParams, Start, Submit, TokenEvent
from tritserve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tritserve.pool.generation import Generation

KV_BYTES = 1024 * 1024
Stream = list[tuple[int, float, tuple[tuple[int, float], ...], str | None]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.trit"
    write_random_model(path, SHAPES["tiny"], seed=3, known_answer=True)
    return path


@contextmanager
def engine(
    path: Path, *, isa: str = "auto", threads: int = 1, batch: int = 8, step_tokens: int = 64, kv_fd: int | None = None
) -> Iterator[tuple[EngineCore, NativeRunner]]:
    fd = create_kv_memory(KV_BYTES) if kv_fd is None else kv_fd
    start = Start(
        version=PROTOCOL_VERSION,
        model_path=str(path),
        isa=isa,
        num_threads=threads,
        kv_bytes=KV_BYTES,
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


def run(core: EngineCore, submits: list[Submit]) -> dict[int, Stream]:
    """Run to the end; every token with its log-probabilities."""
    streams: dict[int, Stream] = defaultdict(list)
    for submit in submits:
        core.submit(submit)
    while core.has_work or core.has_news:
        done = core.step()
        core.blocks.check_integrity()
        assert not done.ends
        for event in done.tokens:
            streams[event.seq_id].append(frozen(event))
    assert core.blocks.num_used == 0
    return streams


def frozen(event: TokenEvent) -> tuple[int, float, tuple[tuple[int, float], ...], str | None]:
    return event.token, event.logprob, tuple(event.top), event.finish


LENGTHS = (3, 20, 70, 33, 100, 64, 15, 81)


@pytest.fixture(scope="module")
def expected(model_path: Path) -> dict[int, Stream]:
    """Each request alone in a fresh engine, plain C."""
    streams = {}
    for seq_id, length in enumerate(LENGTHS):
        with engine(model_path, isa="ref", step_tokens=256) as (core, _):
            streams |= run(core, [submit_of(seq_id, length)])
    return streams


@pytest.mark.parametrize("isa", ["ref", "avx2", "avx512vnni", "neon"])
@pytest.mark.parametrize(("threads", "batch", "step_tokens"), [(1, 8, 256), (2, 8, 16), (2, 3, 37)])
def test_neighbours_chunks_threads_and_kernels_change_nothing(
    model_path: Path, expected: dict[int, Stream], isa: str, threads: int, batch: int, step_tokens: int
) -> None:
    if not isa_supported(Isa[isa.upper()]):
        pytest.skip(f"this machine does not run {isa}")
    with engine(model_path, isa=isa, threads=threads, batch=batch, step_tokens=step_tokens) as (core, runner):
        for block in range(runner.info.num_blocks):
            runner._kv.poison(block)  # what is read without having been written would show
        assert run(core, [submit_of(i, length) for i, length in enumerate(LENGTHS)]) == expected


def test_cached_prefix_changes_nothing(model_path: Path, expected: dict[int, Stream]) -> None:
    with engine(model_path) as (core, _):
        submits = [submit_of(i, length) for i, length in enumerate(LENGTHS)]
        assert run(core, submits) == expected
        assert core.blocks.num_cached > 0
        assert run(core, submits) == expected


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
        assert isinstance(event, ChoiceToken)
        token = event.token
        stream.append((token.token, token.logprob, tuple(token.top), event.finish))
        if len(stream) in kill_at:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
    return stream


def request_like(submit: Submit) -> GenerationRequest:
    return GenerationRequest(
        request_id="native",
        prompt=submit.prompt,
        choices=[submit.sampling],
        max_tokens=submit.max_tokens,
        min_tokens=submit.min_tokens,
        stop_token_ids=frozenset(submit.stop_token_ids),
    )


async def test_streams_survive_their_worker_on_the_real_model(model_path: Path, expected: dict[int, Stream]) -> None:
    recorder = Recorder()
    settings = Settings(kv_cache_bytes=KV_BYTES, workers=1, threads=1, max_step_tokens=32, max_batch_size=6)
    pool = ProcessPool(settings, model_path, recorder, machine=MACHINE, timing=PATIENT)
    await pool.start()
    try:
        await recorder.until(lambda: pool.status.ready)
        generations = [await pool.submit(request_like(submit_of(i, n))) for i, n in enumerate(LENGTHS)]
        streams = await asyncio.gather(
            *[_collect(g, pool, frozenset({2 + i, 9 + i})) for i, g in enumerate(generations)]
        )
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

"""The demo model through the engine: as good as the trainer says, and the same to the last bit whatever happens around a request."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from native_engine import engine, frozen_choice, poison_all, request_like, run
from pool_harness import MACHINE, PATIENT, Killer, Recorder
from tokenizers import Tokenizer

from tritserve.demo.chat import CHAT_TEMPLATE, Message, render
from tritserve.demo.config import BEGIN_OF_TEXT
from tritserve.demo.measure import open_engine, score_documents
from tritserve.demo.scoring import read_documents
from tritserve.isa import Isa
from tritserve.model.cache import load_or_convert
from tritserve.model.hub import DEMO_CHECKPOINT
from tritserve.model.packed_file import open_packed
from tritserve.native.lib import isa_supported
from tritserve.pool.process_pool import ProcessPool
from tritserve.protocol import SamplingParams, StepDone, Submit
from tritserve.settings import Settings

if TYPE_CHECKING:
    from native_engine import Stream

    from tritserve.pool.generation import Generation

SLICE = Path(__file__).resolve().parents[1] / "golden" / "demo_slice.jsonl"
TRAINER_NATS = 3865.2042388916016  # python -m tritserve.demo.evaluate on the slice: torch 2.13.0, float32
KV_BYTES = 16 * 1024 * 1024
NUM_OTHERS = 16


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_or_convert(DEMO_CHECKPOINT, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))


def chat_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    text = BEGIN_OF_TEXT + render([Message("user", question)], add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


# --- quality -------------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_small_and_carries_its_own_chat_format() -> None:
    assert sum(path.stat().st_size for path in DEMO_CHECKPOINT.iterdir()) < 6_000_000
    assert json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE


def test_bits_per_byte_of_unseen_stories_are_those_of_the_trained_network(demo: Path, tokenizer: Tokenizer) -> None:
    with open_engine(demo, num_threads=2) as core:
        score = score_documents(core, tokenizer, read_documents(SLICE))
    assert (score.texts, score.tokens, score.text_bytes) == (12, 2219, 9011)
    assert score.bits_per_byte <= 0.82
    assert score.nats == pytest.approx(TRAINER_NATS, rel=0.005)


STORY = "Tell me a story about a dog named Max."
SAMPLINGS = {
    "greedy": SamplingParams(seed=0, temperature=0.0),
    "seeded": SamplingParams(seed=1, temperature=0.6, top_p=0.9),
}


def answers(demo: Path, tokenizer: Tokenizer, question: str) -> dict[str, tuple[str, str | None]]:
    """Ask with each sampling; return text and finish reason. Ends only at the model's own end tokens or after 600 tokens."""
    with open_packed(demo) as packed:
        stop = packed.header.special_tokens.eos
    prompt = chat_ids(tokenizer, question)
    submits = [
        Submit(seq_id=i, group=i, prompt=prompt, sampling=sampling, max_tokens=600, stop_token_ids=stop)
        for i, sampling in enumerate(SAMPLINGS.values())
    ]
    with engine(demo, threads=2, kv_bytes=KV_BYTES) as (core, _):
        streams = run(core, submits)
    return {
        name: (tokenizer.decode([token for token, *_ in streams[i]]), streams[i][-1][3])
        for i, name in enumerate(SAMPLINGS)
    }


def test_asked_for_a_story_about_a_dog_named_max_it_tells_one_that_ends(demo: Path, tokenizer: Tokenizer) -> None:
    stories = answers(demo, tokenizer, STORY)
    assert stories["greedy"][0] != stories["seeded"][0]
    for text, finish in stories.values():
        assert finish == "stop"
        first_sentence = text.split(".")[0]
        assert "dog" in first_sentence
        assert "named Max" in first_sentence
        assert text.count("Max") >= 5
        assert 300 < len(text) < 2500
        assert text.rstrip("\"'")[-1] in ".!?"


def test_asked_how_it_is_it_answers(demo: Path, tokenizer: Tokenizer) -> None:
    for text, finish in answers(demo, tokenizer, "How are you?").values():
        assert finish == "stop"
        assert text.startswith("I")
        assert 10 < len(text) < 200
        assert text[-1] in ".!"


# --- the same request, the same bits -------------------------------------------------------------------------------------


def targets(tokenizer: Tokenizer) -> list[Submit]:
    """Two requests of 85 and 20 tokens: over the border of an attention chunk, and with every filter and penalty."""
    long_ids = tokenizer.encode(json.loads(SLICE.read_text().splitlines()[1])["text"], add_special_tokens=False).ids
    plain = SamplingParams(seed=5, temperature=0.9, num_top_logprobs=5)
    filtered = SamplingParams(
        seed=2**63 + 9,
        temperature=0.8,
        top_p=0.95,
        top_k=40,
        min_p=0.01,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.1,
        logit_bias={300: 1.0, 301: -5.0},
        num_top_logprobs=2,
    )
    return [
        Submit(seq_id=0, group=0, prompt=[4080, *long_ids[:84]], sampling=plain, max_tokens=30),
        Submit(seq_id=1, group=1, prompt=chat_ids(tokenizer, STORY), sampling=filtered, max_tokens=20, arrival=1),
    ]


def others(tokenizer: Tokenizer, *, first_id: int = 100, max_tokens: int = 8) -> list[Submit]:
    """Sixteen neighbours of several lengths; two share a target's prompt."""
    own = [target.prompt for target in targets(tokenizer)]
    prompts = own + [chat_ids(tokenizer, f"Tell me {'more ' * i}about number {i}.") for i in range(NUM_OTHERS - 2)]
    return [
        Submit(
            seq_id=first_id + i,
            group=first_id + i,
            prompt=prompt,
            sampling=SamplingParams(seed=i, temperature=1.0),
            max_tokens=max_tokens,
            arrival=first_id + i if i % 2 else -i,  # half of them before the targets
        )
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def alone(demo: Path, tokenizer: Tokenizer) -> dict[int, Stream]:
    """Each target alone in an engine of its own: plain C, one thread, prompts in one piece."""
    streams = {}
    for target in targets(tokenizer):
        with engine(demo, isa="ref", step_tokens=256, kv_bytes=KV_BYTES) as (core, _):
            streams |= run(core, [target])
    return streams


def only_targets(streams: dict[int, Stream]) -> dict[int, Stream]:
    return {seq_id: stream for seq_id, stream in streams.items() if seq_id < 2}


def test_same_bits_among_sixteen_others(demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream]) -> None:
    steps: list[StepDone] = []
    with engine(demo, batch=20, step_tokens=256, kv_bytes=KV_BYTES) as (core, runner):
        poison_all(runner)
        streams = run(core, [*targets(tokenizer), *others(tokenizer)], steps)
    assert max(done.stats.num_running for done in steps) >= NUM_OTHERS
    assert only_targets(streams) == alone


@pytest.mark.parametrize("step_tokens", [16, 37])
def test_same_bits_however_the_prompt_is_cut(
    demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream], step_tokens: int
) -> None:
    with engine(demo, batch=2, step_tokens=step_tokens, kv_bytes=KV_BYTES) as (core, _):
        assert run(core, targets(tokenizer)) == alone


def test_same_bits_with_a_cached_prefix(demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream]) -> None:
    with engine(demo, kv_bytes=KV_BYTES) as (core, _):
        run(core, [msgspec.structs.replace(target, max_tokens=1) for target in targets(tokenizer)])
        steps: list[StepDone] = []
        assert run(core, targets(tokenizer), steps) == alone
    assert dict(pair for done in steps for pair in done.cached) == {0: 80, 1: 16}


def test_same_bits_after_preemption(demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream]) -> None:
    steps: list[StepDone] = []
    with engine(demo, num_blocks=9) as (core, runner):  # the two begin with 6 and 2, and need 7 and 3 together
        assert runner.info.num_blocks == 9
        poison_all(runner)
        assert run(core, targets(tokenizer), steps) == alone
    assert sum(done.stats.num_preemptions for done in steps) > 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", [isa.label for isa in Isa if isa >= Isa.REF])
def test_same_bits_on_every_instruction_set_and_number_of_threads(
    demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream], isa: str, threads: int
) -> None:
    if not isa_supported(Isa.named(isa)):
        pytest.skip(f"this machine does not run {isa}")
    with engine(demo, isa=isa, threads=threads, kv_bytes=KV_BYTES) as (core, _):
        assert run(core, targets(tokenizer)) == alone


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_hundred_kills_of_the_worker_change_no_bit(demo: Path, tokenizer: Tokenizer) -> None:
    submits = [
        Submit(seq_id=i, group=i, prompt=submit.prompt, sampling=submit.sampling, max_tokens=300)
        for i, submit in enumerate([*targets(tokenizer), *others(tokenizer)][:8])
    ]
    with engine(demo, threads=2, kv_bytes=KV_BYTES, step_tokens=256) as (core, _):
        undisturbed = run(core, submits)
    recorder = Recorder()
    settings = Settings(kv_cache_bytes=KV_BYTES, workers=1, threads=2, max_step_tokens=64, max_batch_size=6)
    pool = ProcessPool(settings, demo, recorder, machine=MACHINE)
    await pool.start()
    try:
        await recorder.until(lambda: pool.status.ready)
        killer = Killer(pool, 100)
        generations = [await pool.submit(request_like(submit)) for submit in submits]

        async def read(generation: Generation) -> Stream:
            return [frozen_choice(event) async for event in killer.watch(generation)]

        assert dict(enumerate(await asyncio.gather(*map(read, generations)))) == undisturbed
        assert recorder.restarts == ["crash"] * 100
    finally:
        await pool.drain(0.0)


async def _read(generation: Generation, pool: ProcessPool, kill_at: frozenset[int]) -> Stream:
    stream: Stream = []
    async for event in generation:
        stream.append(frozen_choice(event))
        if len(stream) in kill_at:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
    return stream


async def test_same_bits_after_kills_of_the_worker(demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream]) -> None:
    recorder = Recorder()
    settings = Settings(kv_cache_bytes=KV_BYTES, workers=1, threads=2, max_step_tokens=64, max_batch_size=8)
    pool = ProcessPool(settings, demo, recorder, machine=MACHINE, timing=PATIENT)
    await pool.start()
    try:
        await recorder.until(lambda: pool.status.ready)
        generations = [await pool.submit(request_like(submit)) for submit in targets(tokenizer)]
        streams = await asyncio.gather(
            _read(generations[0], pool, frozenset({3, 22})), _read(generations[1], pool, frozenset({9}))
        )
        assert dict(enumerate(streams)) == alone
        assert recorder.restarts == ["crash"] * 3
        assert recorder.hellos[-1].num_adopted_blocks >= 5
    finally:
        await pool.drain(0.0)


def test_log_probabilities_of_a_prompt_are_those_of_choosing_its_tokens(
    demo: Path, tokenizer: Tokenizer, alone: dict[int, Stream]
) -> None:
    target, answer = targets(tokenizer)[0], alone[0]
    ids = target.prompt + [token for token, *_ in answer]
    scoring = Submit(seq_id=7, group=7, prompt=ids, sampling=SamplingParams(seed=0), max_tokens=0, prompt_logprobs=5)
    with engine(demo, kv_bytes=KV_BYTES) as (core, _):
        core.submit(scoring)
        entries = []
        while core.has_work:
            entries += [entry for piece in core.step().prompt_logprobs for entry in piece.entries]
    scored = [(entry.token, entry.logprob, tuple(entry.top)) for entry in entries[len(target.prompt) - 1 :]]
    assert scored == [event[:3] for event in answer]
    assert all(sum(math.exp(logprob) for _, logprob in entry.top) < 1.0 for entry in entries)

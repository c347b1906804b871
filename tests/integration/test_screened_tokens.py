"""The demo model's tokens, chosen from the output head's high plane: the same as from all of it, and with few looks at the low plane."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest
from native_engine import engine, run
from tokenizers import Tokenizer

from tritserve.demo.chat import Message, render
from tritserve.demo.config import BEGIN_OF_TEXT
from tritserve.model.cache import load_or_convert
from tritserve.model.hub import DEMO_CHECKPOINT
from tritserve.protocol import SamplingParams, StepDone, Submit

if TYPE_CHECKING:
    from pathlib import Path

KV_BYTES = 8 * 1024 * 1024
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "plain": {"temperature": 1.0},
    "default of 2B4T": {"temperature": 0.6, "top_p": 0.9},
    "hot top_p": {"temperature": 1.0, "top_p": 0.95},
    "top_k": {"temperature": 0.9, "top_k": 40, "top_p": 0.95},
    "min_p": {"temperature": 1.2, "min_p": 0.05},
    "penalties": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_or_convert(DEMO_CHECKPOINT, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    tokenizer = Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
    text = BEGIN_OF_TEXT + render([Message("user", "Tell me a story about a boat.")], add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def submits(prompt: list[int], fields: dict[str, float], num_top_logprobs: int, count: int) -> list[Submit]:
    return [
        Submit(
            seq_id=index,
            group=index,
            prompt=prompt,
            sampling=SamplingParams(seed=index, num_top_logprobs=num_top_logprobs, **fields),  # type: ignore[arg-type]
            max_tokens=120,
            arrival=index,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_asking_for_logprobs_changes_no_token(name: str, demo: Path, prompt: list[int]) -> None:
    tokens = []
    for num_top_logprobs in (-1, 0):
        with engine(demo, threads=2, kv_bytes=KV_BYTES) as (core, _):
            streams = run(core, submits(prompt, SAMPLINGS[name], num_top_logprobs, 4))
        tokens.append({seq_id: [token for token, *_ in stream] for seq_id, stream in streams.items()})
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_token_takes_few_looks_at_the_low_plane(name: str, demo: Path, prompt: list[int]) -> None:
    looks, num_undecided = [], 0
    with engine(demo, kv_bytes=KV_BYTES) as (core, _):
        for submit in submits(prompt, SAMPLINGS[name], -1, 2):
            steps: list[StepDone] = []
            run(core, [submit], steps)
            looks += [step.stats.num_finished_candidates for step in steps if step.stats.num_screened_rows]
            num_undecided += sum(step.stats.num_undecided_rows for step in steps)
    assert len(looks) == 240
    assert statistics.median(looks) < 10
    assert num_undecided <= 0.1 * len(looks)

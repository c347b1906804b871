"""A whole run on a tiny corpus: batches, stopping, resuming, the exported checkpoint and its score."""

from __future__ import annotations

import json
import lzma
import signal
import sys
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tritserve.demo import evaluate  # noqa: E402
from tritserve.demo.config import ModelConfig, TrainConfig  # noqa: E402
from tritserve.demo.corpus import Corpus  # noqa: E402
from tritserve.demo.train import Batches, Position, Run  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

TINY = ModelConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    story = "Once upon a time there was a dog named Max. Max saw a cat {} times. They were happy."
    files = {
        "tinystories.train": [{"text": story.format(i)} for i in range(30)],
        "tinystories.valid": [{"text": story.format(i)} for i in range(30, 33)],
        "picturebooks.train": [{"text": "A hen went out."}],
        "smalltalk.train": [
            {"text": "User: Hi\nAssistant: Hello!", "source": "personality-chat/friendly"},
            {"text": "User: Is ice cold?\nAssistant: Yes.", "source": "tinytalks"},
        ],
        "smalltalk.valid": [{"text": "User: Hey\nAssistant: Hello!", "source": "personality-chat/friendly"}],
    }
    for name, records in files.items():
        with lzma.open(tmp_path / f"{name}.jsonl.xz", "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)
    return tmp_path


def batches(directory: Path) -> Batches:
    corpus = Corpus(directory, lambda texts: [list(text.encode()) for text in texts], seed=1)
    return Batches(corpus, TINY, TrainConfig())


def test_batches_go_on_from_a_saved_position(directory: Path) -> None:
    position = Position()
    running = batches(directory)
    for _ in range(3):
        running.next_batch(position, 0.1)
    saved = Position(shard=position.shard, row=position.row, row_tokens=position.row_tokens)
    [(inputs, targets)] = running.next_batch(position, 0.1)
    [(resumed_inputs, resumed_targets)] = batches(directory).next_batch(saved, 0.1)
    assert torch.equal(inputs, resumed_inputs)
    assert torch.equal(targets, resumed_targets)


def test_stage_with_longer_rows_begins_a_new_shard(directory: Path) -> None:
    position = Position()
    source = batches(directory)
    [(inputs, _)] = source.next_batch(position, 0.1)
    assert inputs.shape == (5, 384)
    long_batch = source.next_batch(position, 0.95)
    assert [inputs.shape for inputs, _ in long_batch] == [(2, 1024)] * 3
    assert (position.shard, position.row) == (1, 6)


def test_run_stops_resumes_and_leaves_a_checkpoint_that_scores(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = directory / "out"
    run = Run(directory, out, 60.0, resume=False, model_config=TINY)
    run.train(compiled=False, max_steps=2)
    assert run.position.step == 2

    resumed = Run(directory, out, 60.0, resume=True, model_config=TINY)
    assert resumed.position.step == 2
    assert resumed.position.tokens == run.position.tokens
    resumed.request_stop(signal.SIGTERM, None)
    resumed.train(compiled=False)
    assert resumed.position.step == 2

    slice_path = directory / "slice.jsonl"
    slice_path.write_text('{"notice": "none"}\n{"text": "Once upon a time there was a dog."}\n')
    files = [slice_path, directory / "tinystories.valid.jsonl.xz", directory / "smalltalk.valid.jsonl.xz"]
    arguments = ["evaluate", "--checkpoint", str(out / "checkpoint"), *map(str, files)]
    monkeypatch.setattr(sys, "argv", arguments)
    evaluate.main()
    scores = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [score["texts"] for score in scores] == [1, 3, 1]
    assert all(0.1 < score["bits_per_byte"] < 12 for score in scores)


def test_exhausted_budget_trains_nothing_more(directory: Path) -> None:
    run = Run(directory, directory / "out", 0.0, resume=False, model_config=TINY)
    run.train(compiled=False)
    assert run.position.step == 0
    assert (directory / "out" / "checkpoint" / "model.safetensors").stat().st_mode & 0o777 == 0o644

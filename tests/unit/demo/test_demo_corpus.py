"""Documents and packed rows made from a small corpus, without a tokenizer: one byte, one id."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.demo.chat import Message
from tritserve.demo.config import MixtureConfig
from tritserve.demo.corpus import (
    Corpus,
    bpe_training_texts,
    chat_document,
    pack,
    raw_document,
    read_records,
)

if TYPE_CHECKING:
    from pathlib import Path

MIXTURE = MixtureConfig(story_chat_share=0.5, renamed_share=0.5, picturebooks_per_story=0.1, talks_per_story=0.2)


def encode_bytes(texts: list[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    names = ("Max", "Rex", "Spot", "Bo", "Ace", "Zip")
    files = {
        "tinystories.train": [
            {"text": f"There was a dog named {names[i % 6]}. {names[i % 6]} ran {i} times."} for i in range(40)
        ],
        "picturebooks.train": [{"text": "A hen went out."}],
        "smalltalk.train": [
            {"text": "User: Hi\nAssistant: Hello!", "source": "personality-chat/friendly"},
            {"text": "User: Hi\nAssistant: Go away.", "source": "personality-chat/witty"},
            {"text": "User: Is ice cold?\nAssistant: Yes.", "source": "tinytalks"},
        ],
    }
    for name, records in files.items():
        with lzma.open(tmp_path / f"{name}.jsonl.xz", "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)
    return tmp_path


def test_raw_document_is_framed_by_begin_and_end() -> None:
    assert raw_document("Hi.").pieces == (("<|begin_of_text|>", False), ("Hi.", True), ("<|end_of_text|>", True))


def test_chat_document_trains_on_the_last_answer_only() -> None:
    pieces = chat_document([Message("user", "Hi"), Message("assistant", " Hello! ")]).pieces
    assert pieces == (
        ("<|begin_of_text|>User: Hi<|eot_id|>Assistant: ", False),
        ("Hello!", True),
        ("<|eot_id|>", True),
    )


def test_records_are_read_in_order(directory: Path) -> None:
    assert [r["source"] for r in read_records(directory / "smalltalk.train.jsonl.xz")][-1] == "tinytalks"


def test_tokenizer_texts_leave_out_the_other_personas(directory: Path) -> None:
    texts = list(bpe_training_texts(directory))
    assert len(texts) == 40 + 1 + 2
    assert not any("Go away" in text for text in texts)


def test_shard_depends_on_seed_and_index_alone(directory: Path) -> None:
    first, second = (Corpus(directory, encode_bytes, seed=7) for _ in range(2))
    second.shard_rows(3, MIXTURE, 64, 0)
    assert first.shard_rows(1, MIXTURE, 64, 0) == second.shard_rows(1, MIXTURE, 64, 0)
    assert first.shard_rows(1, MIXTURE, 64, 0) != first.shard_rows(2, MIXTURE, 64, 0)


def test_shard_mixes_stories_requests_and_the_one_persona(directory: Path) -> None:
    documents = Corpus(directory, encode_bytes, seed=7).shard_documents(0, MIXTURE)
    text = ["".join(piece for piece, _ in document.pieces) for document in documents]
    assert sum("a dog named" in t.split("Assistant: ")[-1] for t in text) == 1500
    assert sum("<|end_of_text|>" in t for t in text) > 700
    assert sum(t.endswith("Hello!<|eot_id|>") for t in text) > 100
    assert not any("Go away" in t for t in text)


def test_renamed_story_keeps_one_name(directory: Path) -> None:
    names = {"Max", "Rex", "Spot", "Bo", "Ace", "Zip"}
    documents = Corpus(directory, encode_bytes, seed=7).shard_documents(0, MIXTURE)
    for document in documents:
        answer = document.pieces[1][0]
        if "a dog named" in answer:
            assert len({word.rstrip(".") for word in answer.split()} & names) == 1


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(4, 32))
def test_packing_trains_every_id_but_a_documents_first_exactly_once(lengths: list[int], row_tokens: int) -> None:
    documents = [(list(range(100 * i, 100 * i + n)), [False] + [True] * (n - 1)) for i, n in enumerate(lengths, 1)]
    rows = pack(documents, row_tokens, padding=0)
    assert all(len(inputs) == len(targets) == row_tokens for inputs, targets in rows)
    trained = Counter(t for _, targets in rows for t in targets if t != -100)
    assert trained == Counter(i for ids, _ in documents for i in ids[1:])
    for inputs, targets in rows:
        assert all(t in (-100, i + 1) for i, t in zip(inputs, targets, strict=True))

"""What ids stand for: the same to a worker's grammars as to the front's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

import tritserve
from tritserve.errors import ModelFileError
from tritserve.text.tokenizer import Tokenizer
from tritserve.vocabulary import read_vocabulary

DEMO = Path(tritserve.__file__).parent / "demo" / "checkpoint" / "tokenizer.json"
GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer" / "tokenizer.json"


def sentencepiece() -> bytes:
    vocab = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "<0xF0>": 3, "▁": 4, "▁the": 5, "é": 6}
    backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<s>", "<|end|>"])
    backend.add_tokens(["<tool_call>"])
    return backend.to_str().encode()


def unigram() -> bytes:
    backend = Backend(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0, byte_fallback=False))
    backend.decoder = decoders.Metaspace()
    return backend.to_str().encode()


@pytest.mark.parametrize("source", [DEMO.read_bytes(), GOLDEN.read_bytes(), sentencepiece(), unigram()])
def test_pieces_and_special_ids_are_those_of_the_tokenizer(source: bytes) -> None:
    tokenizer = Tokenizer(source)
    size = tokenizer.vocab_size + 7  # a model's table is often padded
    found = read_vocabulary(source, size)
    assert found.pieces == [tokenizer.token_bytes(token) for token in range(size)]
    assert found.special_ids == tokenizer.special_ids


@pytest.mark.parametrize(
    "source", [b"", b"{}", b"[]", b'{"model": {"vocab": 3}}', b'{"model": {"vocab": {}}, "decoder": {"type": "X"}}']
)
def test_what_is_no_tokenizer_is_refused(source: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_vocabulary(source, 10)


def test_ids_outside_the_table_are_left_out() -> None:
    assert read_vocabulary(sentencepiece(), 6).pieces[5] == b" the"

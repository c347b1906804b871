"""Streaming: what is shown piece by piece is what the whole sequence decodes to, never half a character."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tritserve.text.detokenizer import Detokenizer
from tritserve.text.tokenizer import Tokenizer as OurTokenizer

WORDS = ["\u2581", "\u2581a", "\u2581Hello", "\u2581world", "a", "b", "lo", "!", "\u2581\u2581"]


def sentencepiece_json() -> bytes:
    """Make a tokenizer of the kind of Llama 2's: metaspace by normalizer, byte fallback, a first space that is stripped."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {word: 259 + index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer.to_str().encode()


SENTENCEPIECE = OurTokenizer(sentencepiece_json())
SENTENCEPIECE_LIBRARY = Tokenizer.from_str(sentencepiece_json().decode())


@pytest.fixture(scope="module")
def byte_level(tokenizer_json: bytes) -> OurTokenizer:
    return OurTokenizer(tokenizer_json)


def stream(tokenizer: OurTokenizer, tokens: list[int], *, at_start: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, at_start=at_start)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.flush()]


@given(st.lists(st.integers(0, 1300), max_size=60))
def test_streamed_text_equals_the_whole_decoded_text(byte_level: OurTokenizer, tokens: list[int]) -> None:
    assert "".join(stream(byte_level, tokens)) == byte_level.decode(tokens)


@given(st.lists(st.integers(0, 270), max_size=60))
def test_streamed_text_equals_the_whole_with_byte_fallback_and_leading_space(tokens: list[int]) -> None:
    assert "".join(stream(SENTENCEPIECE, tokens)) == SENTENCEPIECE.decode(tokens)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_valid_text_streams_without_replacement_characters(byte_level: OurTokenizer, text: str) -> None:
    tokens = byte_level.encode(text, parse_special=False)

    pieces = stream(byte_level, tokens)

    assert "".join(pieces) == text
    assert pieces[-1] == ""
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.sampled_from([2, 1, *range(259, 259 + len(WORDS))]), max_size=20))
def test_sentencepiece_text_decodes_as_in_the_library(tokens: list[int]) -> None:
    assert SENTENCEPIECE.decode(tokens) == SENTENCEPIECE_LIBRARY.decode(tokens, skip_special_tokens=True)


def test_a_text_that_goes_on_from_a_prompt_keeps_its_first_space() -> None:
    token = 259 + WORDS.index("\u2581world")

    assert "".join(stream(SENTENCEPIECE, [token], at_start=False)) == " world"
    assert "".join(stream(SENTENCEPIECE, [1, token], at_start=True)) == "world"


def test_half_a_character_waits_for_its_rest(byte_level: OurTokenizer) -> None:
    tokens = byte_level.encode("\U0001f99c", parse_special=False)
    assert len(tokens) > 1

    pieces = stream(byte_level, tokens)

    assert pieces[:-2] == [""] * (len(tokens) - 1)
    assert pieces[-2:] == ["\U0001f99c", ""]
    assert stream(byte_level, tokens[:-1])[-1] == "\ufffd"


def test_special_tokens_and_unknown_ids_are_not_shown(byte_level: OurTokenizer) -> None:
    assert stream(byte_level, [1270, 1279, 10**6, -1]) == [""] * 5


def test_every_id_has_the_bytes_that_the_library_decodes(byte_level: OurTokenizer, tokenizer_json: bytes) -> None:
    library = Tokenizer.from_str(tokenizer_json.decode())

    for token in range(byte_level.vocab_size):
        assert byte_level.token_bytes(token).decode("utf-8", "replace") == library.decode(
            [token], skip_special_tokens=False
        )


def metaspace_first_json() -> bytes:
    """Make a tokenizer whose texts begin with an added space, but whose pieces after a special token do not."""
    description = json.loads(sentencepiece_json())
    tokenizer: Any = Tokenizer.from_str(json.dumps(description | {"normalizer": None}))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer.to_str().encode()


@pytest.mark.parametrize("source", [sentencepiece_json(), metaspace_first_json()], ids=["prepend", "metaspace-first"])
@pytest.mark.parametrize("text", ["Hello world", "</s>Hello", "Hello</s>Hello world</s>", "a</s> b", " a", "", "</s>"])
def test_pieces_between_special_tokens_are_encoded_as_the_library_does(source: bytes, text: str) -> None:
    library = Tokenizer.from_str(source.decode())

    assert OurTokenizer(source).encode(text) == library.encode(text, add_special_tokens=False).ids

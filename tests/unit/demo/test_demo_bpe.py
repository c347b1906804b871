"""The tokenizer files, from a tokenizer trained on a few sentences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from tritserve.demo.bpe import encode_plain, train_tokenizer, write_tokenizer_files
from tritserve.demo.config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ModelConfig(vocab_size=300)
TEXTS = ["User: How are you?\nAssistant: I am fine.", "Once upon a time there was a dog."] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, CONFIG)


def test_special_tokens_take_the_last_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id("<|begin_of_text|>") == CONFIG.token_id("<|begin_of_text|>") == 284
    assert tokenizer.get_vocab_size() == 300


def test_generation_prompt_ends_in_a_lone_space_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("<|eot_id|>Assistant: ", add_special_tokens=False).tokens
    assert tokens[0] == "<|eot_id|>"
    assert tokens[-1] == "\u0120"


def test_begin_of_text_is_added_only_when_asked_for(tokenizer: Tokenizer) -> None:
    [plain] = encode_plain(tokenizer, ["a dog"])
    assert tokenizer.encode("a dog").ids == [284, *plain]


@pytest.mark.parametrize("text", ["", "It's  12345 dogs,\r\n\n  no?! ", "caf\u00e9 \u72ac \U0001f436"])
def test_any_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encode_plain(tokenizer, [text])[0]) == text


def test_too_little_text_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="entries"):
        train_tokenizer(["a b"], ModelConfig(vocab_size=4096))


def test_files_name_both_end_tokens_and_the_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer_files(tokenizer, CONFIG, tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [285, 293]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|eot_id|>"
    assert settings["added_tokens_decoder"]["293"]["content"] == "<|eot_id|>"
    assert "Assistant: " in settings["chat_template"]
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 300

"""Train the byte-level BPE tokenizer and write the tokenizer files of a Hugging Face checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from tritserve.demo.chat import CHAT_TEMPLATE
from tritserve.demo.config import (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    END_OF_TURN,
    SPECIAL_TOKENS,
    ModelConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The split pattern of LLaMA 3's tokenizer.json.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], config: ModelConfig) -> Tokenizer:
    """Train a tokenizer whose last ids are the special tokens."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=config.vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A",
        pair=f"{BEGIN_OF_TEXT} $A {BEGIN_OF_TEXT}:1 $B:1",
        special_tokens=[(BEGIN_OF_TEXT, config.token_id(BEGIN_OF_TEXT))],
    )
    if tokenizer.get_vocab_size() != config.vocab_size:
        raise ValueError(f"the vocabulary has {tokenizer.get_vocab_size()} entries")
    return tokenizer


def encode_plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Tokenise texts without adding begin-of-text."""
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def write_tokenizer_files(tokenizer: Tokenizer, config: ModelConfig, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(config.token_id(text)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for text in SPECIAL_TOKENS
    }
    _write(
        directory / "tokenizer_config.json",
        {
            "added_tokens_decoder": added,
            "bos_token": BEGIN_OF_TEXT,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": END_OF_TURN,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": config.max_position_embeddings,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _write(
        directory / "special_tokens_map.json",
        {"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN},
    )
    _write(
        directory / "generation_config.json",
        {
            "_from_model_config": False,
            "bos_token_id": config.token_id(BEGIN_OF_TEXT),
            "do_sample": True,
            "eos_token_id": [config.token_id(END_OF_TEXT), config.token_id(END_OF_TURN)],
            "max_length": config.max_position_embeddings,
            "temperature": 0.6,
            "top_p": 0.9,
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

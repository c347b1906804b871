"""The golden tokenizer and templates, and models made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tritserve.text.model_text import ModelText

GOLDEN = Path(__file__).parents[2] / "golden"
BOS, BOS_TEXT, EOS_TEXT = 1270, "<|begin_of_text|>", "<|eot_id|>"


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    return (GOLDEN / "tokenizer" / "tokenizer.json").read_bytes()


@pytest.fixture(scope="session")
def golden_chat() -> dict[str, Any]:
    return json.loads((GOLDEN / "tokenizer_chat.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def make_text(tokenizer_json: bytes) -> Any:
    """Return a function: template source -> ModelText."""

    def make(template: str | None, *, add_bos: bool = False) -> ModelText:
        return ModelText(
            tokenizer_json,
            chat_template=template,
            bos_token_id=BOS,
            bos_text=BOS_TEXT,
            eos_text=EOS_TEXT,
            add_bos=add_bos,
        )

    return make

"""Token ids and chat renderings equal what transformers made of the same texts (tests/golden/make_tokenizer.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[2] / "golden"
TEXTS = json.loads((GOLDEN / "tokenizer_ids.json").read_text(encoding="utf-8"))["cases"]
CHATS = json.loads((GOLDEN / "tokenizer_chat.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: ascii(case["text"])[:24])
def test_text_has_the_ids_of_transformers(make_text: Any, case: dict[str, Any]) -> None:
    text = make_text(None, add_bos=True)

    assert text.tokenizer.encode(case["text"], parse_special=False) == case["plain"]
    assert text.tokenizer.encode(case["text"]) == case["parsed"]
    assert text.encode_prompt(case["text"]) == case["with_bos"]
    assert text.tokenizer.decode(case["plain"]) == case["decoded"]


@pytest.mark.parametrize("case", CHATS, ids=lambda case: case["template"])
def test_chat_has_the_rendering_and_ids_of_transformers(make_text: Any, golden_chat: Any, case: dict[str, Any]) -> None:
    text = make_text(golden_chat["templates"][case["template"]])

    rendered = text.render_chat(case["messages"], add_generation_prompt=case["add_generation_prompt"])
    ids = text.encode_chat(case["messages"], add_generation_prompt=case["add_generation_prompt"])

    assert rendered == case["text"]
    assert ids == case["ids"]

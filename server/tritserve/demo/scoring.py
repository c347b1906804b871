"""What validation scores: the texts, where each is cut, and the totals. Needs no torch: the trainer and the server are measured alike.

Each text is scored by itself from position 0, given begin-of-text; its end token is not scored.
Small talk is scored on the answer, given the chat-format prompt.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tritserve.demo.bpe import encode_plain
from tritserve.demo.chat import parse_dialogue
from tritserve.demo.corpus import Document, chat_document, is_small_talk, raw_document, read_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Score:
    """Totals over one file."""

    texts: int
    tokens: int
    text_bytes: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        """Bits of information per UTF-8 byte of text."""
        return self.nats / math.log(2.0) / self.text_bytes

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats per token."""
        return self.nats / self.tokens


class ScoredText(NamedTuple):
    """Token ids of a document: given ones, then those to score, which spell ``text_bytes`` of UTF-8."""

    given: list[int]
    scored: list[int]
    text_bytes: int


def scored_texts(tokenizer: Tokenizer, documents: Iterable[Document], max_tokens: int) -> Iterator[ScoredText]:
    """Yield the trained pieces of documents but the last, the end token, cut to ``max_tokens`` with what is given."""
    for document in documents:
        given, answer = document.pieces[0][0], document.pieces[1][0]
        given_ids, answer_ids = encode_plain(tokenizer, [given, answer])
        kept = answer_ids[: max(0, max_tokens - len(given_ids))]
        if len(kept) < len(answer_ids):
            answer = tokenizer.decode(kept, skip_special_tokens=False)
        yield ScoredText(given_ids, kept, len(answer.encode("utf-8")))


def read_documents(path: Path) -> list[Document]:
    """Read a validation file of the corpus (``.jsonl.xz``), or an uncompressed slice of one, as documents to score."""
    if path.suffix != ".xz":
        return _read_slice(path)
    records = read_records(path)
    if path.name.startswith("smalltalk"):
        return [chat_document(parse_dialogue(r["text"])) for r in records if is_small_talk(r)]
    return [raw_document(record["text"]) for record in records]


def report(path: Path, score: Score) -> str:
    """Return one JSON line."""
    totals = {"texts": score.texts, "tokens": score.tokens, "text_bytes": score.text_bytes, "nats": score.nats}
    figures = {"loss": round(score.loss, 4), "bits_per_byte": round(score.bits_per_byte, 4)}
    return json.dumps({"file": path.name, **totals, **figures})


def _read_slice(path: Path) -> list[Document]:
    """Read JSON lines; those without text (such as a notice) are left out."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [raw_document(record["text"]) for record in records if "text" in record]

"""Measure an exported checkpoint: loss and bits per byte of each validation file.

Each text is scored by itself from position 0, given begin-of-text; its end token is not scored.
Small talk is scored on the answer, given the chat-format prompt.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from tritserve.demo.bpe import encode_plain
from tritserve.demo.chat import parse_dialogue
from tritserve.demo.corpus import (
    Document,
    chat_document,
    is_small_talk,
    raw_document,
    read_records,
)
from tritserve.demo.export import load_exported

if TYPE_CHECKING:
    from tritserve.demo.network import BitNet


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


def score_documents(model: BitNet, tokenizer: Tokenizer, documents: list[Document]) -> Score:
    """Score the text of documents: the trained pieces but the last, which is the end token.

    Texts longer than the model's positions are cut there, and counted by the bytes scored.
    """
    limit = model.config.max_position_embeddings
    tokens = text_bytes = 0
    nats = 0.0
    for document in documents:
        prompt, answer = document.pieces[0][0], document.pieces[1][0]
        prompt_ids, answer_ids = encode_plain(tokenizer, [prompt, answer])
        kept = answer_ids[: limit - len(prompt_ids)]
        if len(kept) < len(answer_ids):
            answer = tokenizer.decode(kept, skip_special_tokens=False)
        ids = prompt_ids + kept
        targets = [-100] * (len(prompt_ids) - 1) + kept
        with torch.inference_mode():
            nats += float(model.loss(torch.tensor([ids[:-1]]), torch.tensor([targets])))
        tokens += len(kept)
        text_bytes += len(answer.encode("utf-8"))
    return Score(len(documents), tokens, text_bytes, nats)


def validation_documents(path: Path) -> list[Document]:
    """Read a validation file as documents to score."""
    records = read_records(path)
    if path.name.startswith("smalltalk"):
        return [chat_document(parse_dialogue(r["text"])) for r in records if is_small_talk(r)]
    return [raw_document(record["text"]) for record in records]


def read_slice(path: Path) -> list[Document]:
    """Read an uncompressed JSON-lines slice; lines without text (such as its notice) are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [raw_document(record["text"]) for record in records if "text" in record]


def main() -> None:
    """Score files of the corpus, or of any JSON-lines file, with an exported checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: leave it to torch")
    parser.add_argument("--limit", type=int, default=0, help="score only so many texts of a file")
    parser.add_argument("files", type=Path, nargs="+", help="*.valid.jsonl.xz or *.jsonl")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_exported(arguments.checkpoint)
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    for path in arguments.files:
        documents = validation_documents(path) if path.suffix == ".xz" else read_slice(path)
        score = score_documents(model, tokenizer, documents[: arguments.limit or None])
        figures = {"loss": round(score.loss, 4), "bits_per_byte": round(score.bits_per_byte, 4)}
        print(json.dumps({"file": path.name, **asdict(score), **figures}), flush=True)


if __name__ == "__main__":
    main()

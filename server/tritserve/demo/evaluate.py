"""Measure an exported checkpoint with the network that trained it: loss and bits per byte of each validation file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from tritserve.demo.export import load_exported
from tritserve.demo.scoring import Score, read_documents, report, scored_texts

if TYPE_CHECKING:
    from tritserve.demo.corpus import Document
    from tritserve.demo.network import BitNet


def score_documents(model: BitNet, tokenizer: Tokenizer, documents: list[Document]) -> Score:
    """Score documents with the network; see ``scored_texts`` for what counts."""
    tokens = text_bytes = 0
    nats = 0.0
    for given, scored, num_bytes in scored_texts(tokenizer, documents, model.config.max_position_embeddings):
        ids = given + scored
        targets = [-100] * (len(given) - 1) + scored
        with torch.inference_mode():
            nats += float(model.loss(torch.tensor([ids[:-1]]), torch.tensor([targets])))
        tokens += len(scored)
        text_bytes += num_bytes
    return Score(len(documents), tokens, text_bytes, nats)


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
        documents = read_documents(path)[: arguments.limit or None]
        print(report(path, score_documents(model, tokenizer, documents)), flush=True)


if __name__ == "__main__":
    main()

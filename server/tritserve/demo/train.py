"""Train the demo model from scratch on CPUs, within a budget of training time.

The schedule follows the share of the budget that has been used, so that the last stage always
completes: to shorten or lengthen a run, stop it and resume it with another ``--minutes``.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tritserve.demo.bpe import encode_plain, train_tokenizer, write_tokenizer_files
from tritserve.demo.config import END_OF_TEXT, ModelConfig, TrainConfig
from tritserve.demo.corpus import Corpus, bpe_training_texts, raw_document, read_records
from tritserve.demo.evaluate import score_documents
from tritserve.demo.export import export, load_exported
from tritserve.demo.network import BitNet
from tritserve.demo.optimizer import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

logger = logging.getLogger(__name__)

_LONGEST_STEP_SECONDS = 20.0
"""A step counts for no more: time while the process was paused is not training time."""

Batch = list[tuple[Tensor, Tensor]]


@dataclass(slots=True)
class Position:
    """Where a run stands; saved in its checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    shard: int = 0
    row: int = 0
    row_tokens: int = 0


class Batches:
    """Microbatches of packed rows, as a function of the position alone."""

    def __init__(self, corpus: Corpus, model: ModelConfig, config: TrainConfig) -> None:
        self.corpus = corpus
        self.padding = model.token_id(END_OF_TEXT)
        self.config = config
        self._rows: list[tuple[list[int], list[int]]] = []
        self._rows_key: tuple[object, ...] = ()

    def next_batch(self, position: Position, progress: float) -> Batch:
        """Return the microbatches of one step, (rows, T) each, and advance the position."""
        row_tokens = self.config.schedule.row_tokens(progress)
        if position.row_tokens != row_tokens:
            if position.row:
                position.shard, position.row = position.shard + 1, 0
            position.row_tokens = row_tokens
        rows = max(self.config.microbatch_tokens // row_tokens, 1)
        batch = []
        for _ in range(self.config.schedule.microbatches(progress)):
            shard = self._shard(position, progress)
            if position.row + rows > len(shard):
                position.shard, position.row = position.shard + 1, 0
                shard = self._shard(position, progress)
            chosen = shard[position.row : position.row + rows]
            position.row += rows
            inputs = torch.tensor([row[0] for row in chosen])
            batch.append((inputs, torch.tensor([row[1] for row in chosen])))
        return batch

    def _shard(self, position: Position, progress: float) -> list[tuple[list[int], list[int]]]:
        mixture = self.config.mixture(progress)
        key = (position.shard, position.row_tokens, mixture)
        if key != self._rows_key:
            if position.row and self._rows_key and self._rows_key[0] == position.shard:
                return self._rows  # the stage changed within a shard: finish it first
            self._rows = self.corpus.shard_rows(position.shard, mixture, position.row_tokens, self.padding)
            self._rows_key = key
        return self._rows


def train_step(
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    batch: Batch,
    progress: float,
) -> float:
    """Do one optimizer step; return the mean loss in nats per trained token."""
    counted = sum(int((targets >= 0).sum()) for _, targets in batch)
    total = 0.0
    for inputs, targets in batch:
        loss = loss_function(inputs, targets) / counted
        torch.autograd.backward(loss)
        total += float(loss.detach())
    optimizer.step(progress)
    return total


def save_checkpoint(path: Path, model: BitNet, optimizer: Optimizer, position: Position) -> None:
    """Save everything that resuming needs, replacing the file atomically."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": {name: getattr(position, name) for name in Position.__slots__},
    }
    partial_path = path.with_name(path.name + ".partial")
    torch.save(state, partial_path)
    os.replace(partial_path, path)


def load_checkpoint(path: Path, model: BitNet, optimizer: Optimizer) -> Position:
    """Restore model and optimizer from a checkpoint; return where the run stood."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Position(**state["position"])


class Run:
    """One training run in a directory."""

    def __init__(
        self,
        corpus_directory: Path,
        out: Path,
        minutes: float,
        *,
        resume: bool,
        exported: Path | None = None,
        model_config: ModelConfig | None = None,
    ) -> None:
        self.config, self.model_config = TrainConfig(), model_config or ModelConfig()
        self.budget_seconds = minutes * 60.0
        self.exported = exported or out / "checkpoint"
        self.state_path = out / "state.pt"
        out.mkdir(parents=True, exist_ok=True)
        self.model = BitNet(self.model_config, self.config.seed)
        self.optimizer = Optimizer(self.model, self.config)
        self.position = Position()
        tokenizer_path = self.exported / "tokenizer.json"
        if resume and self.state_path.exists():
            self.position = load_checkpoint(self.state_path, self.model, self.optimizer)
            self.tokenizer = Tokenizer.from_file(str(tokenizer_path))
        else:
            self.tokenizer = train_tokenizer(bpe_training_texts(corpus_directory), self.model_config)
            write_tokenizer_files(self.tokenizer, self.model_config, self.exported)
        encode = partial(encode_plain, self.tokenizer)
        corpus = Corpus(corpus_directory, encode, self.config.seed)
        self.batches = Batches(corpus, self.model_config, self.config)
        validation = read_records(corpus_directory / "tinystories.valid.jsonl.xz")[:60]
        self.validation = [raw_document(record["text"]) for record in validation]
        self.stopping = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: finish the step, save, export and return."""
        self.stopping = True

    def save(self) -> None:
        """Save the state to resume from."""
        save_checkpoint(self.state_path, self.model, self.optimizer, self.position)

    def export(self) -> None:
        """Export the packed checkpoint and log its bits per byte on 60 validation stories."""
        export(self.model, self.exported)
        score = score_documents(load_exported(self.exported), self.tokenizer, self.validation)
        logger.info("exported step=%d bits_per_byte_60=%.4f", self.position.step, score.bits_per_byte)

    def train(self, *, compiled: bool, max_steps: int = 0) -> None:
        """Train until the budget is used, max_steps are done or a signal asks to stop."""
        loss_function: Callable[[Tensor, Tensor], Tensor] = self.model.loss
        if compiled:
            loss_function = torch.compile(loss_function, dynamic=False)
        position, config = self.position, self.config
        now = time.monotonic()
        saved = exported = now
        export_after = config.first_export_seconds
        recent_loss = 0.0
        while position.seconds < self.budget_seconds and not self.stopping:
            started = now
            progress = position.seconds / self.budget_seconds
            batch = self.batches.next_batch(position, progress)
            loss = train_step(loss_function, self.optimizer, batch, progress)
            position.step += 1
            position.tokens += sum(inputs.numel() for inputs, _ in batch)
            recent_loss = loss if not recent_loss else recent_loss + (loss - recent_loss) * 0.05
            if position.step % 20 == 0:
                logger.info(
                    "step=%d progress=%.4f tokens=%d seconds=%.0f loss=%.4f average=%.4f",
                    position.step,
                    progress,
                    position.tokens,
                    position.seconds,
                    loss,
                    recent_loss,
                )
            now = time.monotonic()
            if now - saved > config.checkpoint_seconds:
                self.save()
                saved = now = time.monotonic()
            if now - exported > export_after:
                self.export()
                exported = now = time.monotonic()
                export_after = config.export_seconds
            position.seconds += min(now - started, _LONGEST_STEP_SECONDS)
            if max_steps and position.step >= max_steps:
                break
        self.save()
        self.export()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="directory of the corpus files")
    parser.add_argument("--out", type=Path, required=True, help="where state.pt goes")
    parser.add_argument("--checkpoint", type=Path, help="packed checkpoint; default OUT/checkpoint")
    parser.add_argument("--minutes", type=float, default=105.0, help="training time in all")
    parser.add_argument("--resume", action="store_true", help="go on from state.pt, if it exists")
    parser.add_argument("--threads", type=int, default=0, help="0: leave it to torch")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    run = Run(
        arguments.corpus,
        arguments.out,
        arguments.minutes,
        resume=arguments.resume,
        exported=arguments.checkpoint,
    )
    signal.signal(signal.SIGTERM, run.request_stop)
    signal.signal(signal.SIGINT, run.request_stop)
    run.train(compiled=not arguments.no_compile)


if __name__ == "__main__":
    main()

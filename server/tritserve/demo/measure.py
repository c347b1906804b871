"""Measure the demo model as the server computes it: loss and bits per byte through the engine's prompt log-probabilities.

    python -m tritserve.demo.measure tinystories.valid.jsonl.xz

The figures to compare are those of ``evaluate``, which asks the network that was trained (in float32, by torch).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from tritserve.demo.scoring import Score, read_documents, report, scored_texts
from tritserve.engine.core import EngineCore
from tritserve.engine.runner import NativeRunner
from tritserve.engine.scheduler import MAX_SCORING_ROWS, SchedulerLimits
from tritserve.model.cache import load_or_convert
from tritserve.model.hub import DEMO_CHECKPOINT
from tritserve.protocol import PROTOCOL_VERSION, SamplingParams, Start, Submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritserve.demo.corpus import Document

_KV_BYTES = 64 * 1024 * 1024


@contextmanager
def open_engine(
    model: Path, *, isa: str = "auto", num_threads: int = 1, kv_dtype: str = "int16"
) -> Iterator[EngineCore]:
    """Yield an engine on a packed model, self-tested. Raises ModelFileError, NativeError."""
    limits = SchedulerLimits(max_batch_size=8, max_step_tokens=MAX_SCORING_ROWS)
    start = Start(
        version=PROTOCOL_VERSION,
        model_path=str(model),
        isa=isa,
        num_threads=num_threads,
        kv_bytes=_KV_BYTES,
        kv_dtype=kv_dtype,
        max_model_len=0,
        max_batch_size=limits.max_batch_size,
        max_step_tokens=limits.max_step_tokens,
    )
    fd = os.memfd_create("tritserve-measure", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, _KV_BYTES)
        with NativeRunner(start, fd) as runner:
            core = EngineCore(runner, limits, runner.info.max_positions)
            core.adopt_blocks()
            core.self_test()
            yield core
    finally:
        os.close(fd)


def score_documents(core: EngineCore, tokenizer: Tokenizer, documents: list[Document]) -> Score:
    """Score documents with the engine; see ``scored_texts`` for what counts."""
    tokens = text_bytes = 0
    nats = 0.0
    for seq_id, (given, scored, num_bytes) in enumerate(scored_texts(tokenizer, documents, core.max_model_len)):
        logprobs = _prompt_logprobs(core, seq_id, given + scored)
        nats -= sum(logprobs[len(given) - 1 :])
        tokens += len(scored)
        text_bytes += num_bytes
    return Score(len(documents), tokens, text_bytes, nats)


def _prompt_logprobs(core: EngineCore, seq_id: int, prompt: list[int]) -> list[float]:
    """Return the log-probability of every token of ``prompt`` but the first, as an echo request gets them."""
    sampling = SamplingParams(seed=0)
    core.submit(Submit(seq_id=seq_id, group=seq_id, prompt=prompt, sampling=sampling, max_tokens=0, prompt_logprobs=0))
    logprobs: list[float] = []
    while core.has_work:
        for piece in core.step().prompt_logprobs:
            logprobs += [entry.logprob for entry in piece.entries]
    if len(logprobs) != len(prompt) - 1:
        raise RuntimeError(f"{len(logprobs)} log-probabilities for a prompt of {len(prompt)} tokens")
    return logprobs


def main() -> None:
    """Score files of the corpus, or of any JSON-lines file, with the demo model or another checkpoint of its kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0, help="score only so many texts of a file")
    parser.add_argument("files", type=Path, nargs="+", help="*.valid.jsonl.xz or *.jsonl")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    with (
        tempfile.TemporaryDirectory() as cache,
        open_engine(
            load_or_convert(arguments.checkpoint, Path(cache)), isa=arguments.isa, num_threads=arguments.threads
        ) as core,
    ):
        for path in arguments.files:
            documents = read_documents(path)[: arguments.limit or None]
            print(report(path, score_documents(core, tokenizer, documents)), flush=True)


if __name__ == "__main__":
    main()

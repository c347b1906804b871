"""What is compared: each engine holds its model and does one stretch of work when told, so that turns can alternate."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tritserve.cli.bench_measure import open_session, shape_of
from tritserve.cli.bench_report import Sample
from tritserve.cli.bench_steps import WARM_UP_STEPS, decode_windows, prefill_prompt
from tritserve.native.lib import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from tritserve.isa import Isa
    from tritserve.model.packed_file import PackedModel


@dataclass(frozen=True, slots=True)
class Setting:
    """What every engine is given: threads, context tokens, the batches, and turns of so many steps for each batch."""

    threads: int
    context: int
    batches: tuple[int, ...]
    steps: dict[int, int]
    turns: int


class Engine(Protocol):
    """One side of the comparison. ``weights_bytes``: what a step reads of body and head."""

    name: str
    precision: str
    weights_bytes: int

    def prefill(self) -> Sample:
        """Compute the prompt from nothing."""
        ...

    def decode(self, batch: int) -> Sample | None:
        """Do one turn of decoding behind the prompt; None if this engine cannot."""
        ...


class Tritserve:
    """Our own model step, through the functions that ``tritserve bench`` times."""

    name = "tritserve"

    def __init__(self, packed: PackedModel, isa: Isa, setting: Setting, stack: ExitStack) -> None:
        positions = setting.context + WARM_UP_STEPS + setting.turns * max(setting.steps.values())
        most, blocks_each = max(setting.batches), -(-positions // BLOCK_TOKENS)
        self._model, self._session = stack.enter_context(
            open_session(packed, isa, setting.threads, num_blocks=most * blocks_each, max_seqs=most)
        )
        self.shape = shape = shape_of(packed, self._model)
        self.isa = self._model.isa
        bits = 8 * shape.body_bytes / shape.ternary_weights
        self.precision = f"ternary in {bits:.3g} bits; head 16 bit, screened by its high byte; KV int16"
        self.weights_bytes = (
            shape.body_bytes + shape.head_weights
        )  # of the head its high byte, where nothing else is asked for
        self._tables = np.arange(most * blocks_each, dtype=np.int32).reshape(most, blocks_each)
        self._prompt = np.random.default_rng(1).integers(0, self._model.vocab, setting.context, dtype=np.int32)
        self._setting = setting
        self._windows: dict[int, Iterator[Sample]] = {}
        prefill_prompt(self._session, self._prompt[:16], self._tables[:1])  # the weights' pages come in

    def prefill(self) -> Sample:
        """Compute the prompt."""
        return prefill_prompt(self._session, self._prompt, self._tables[:1])

    def decode(self, batch: int) -> Sample:
        """Do the next window of this batch; its first comes after a warm-up."""
        if batch not in self._windows:
            turns = self._setting.turns
            self._windows[batch] = decode_windows(
                self._session,
                self._prompt[:batch],
                self._tables[:batch],
                self._setting.context,
                turns * self._setting.steps[batch],
                turns,
            )
        return next(self._windows[batch])


class LlamaCpp:
    """llama.cpp through our driver (driver.c), one process that stays."""

    def __init__(self, driver: Path, model: Path, precision: str, setting: Setting, stack: ExitStack) -> None:
        self.name = f"llama.cpp {model.stem.rpartition('-')[2]}"
        self.precision = precision
        self.weights_bytes = model.stat().st_size
        self._steps = setting.steps
        most = (setting.threads, setting.context, max(setting.batches), max(setting.steps.values()))
        self._process = stack.enter_context(
            subprocess.Popen(
                [str(driver), str(model), *map(str, most)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(self._process.terminate)
        self.system = self._read()["system"]

    def prefill(self) -> Sample:
        """Compute the prompt."""
        return self._order("prefill")

    def decode(self, batch: int) -> Sample:
        """Decode so many steps right behind the prompt."""
        return self._order(f"decode {batch} {self._steps[batch]}")

    def _order(self, line: str) -> Sample:
        if self._process.stdin is None:
            raise RuntimeError("no pipe")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return Sample(int(answer["tokens"]), float(answer["seconds"]), float(answer["cpu_seconds"]))

    def _read(self) -> dict[str, str]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            sys.exit(f"{self.name}: the driver ended with status {self._process.wait()}; is there memory enough?")
        found: dict[str, str] = json.loads(line)
        return found


class LlamaBench:
    """A program with llama-bench's options and JSON (llama.cpp, ik_llama.cpp, bitnet.cpp): the prompt, and decoding alone behind nothing.

    Every turn starts it anew; its own clock excludes that, the CPU seconds of the process do not and are left out.
    """

    def __init__(self, name: str, program: Path, model: Path, setting: Setting) -> None:
        self.name = name
        self.precision = f"{model.name}; decoding behind no context"
        self.weights_bytes = model.stat().st_size
        self._command = [str(program), "-m", str(model), "-t", str(setting.threads), "-r", "1", "-o", "json"]
        self._setting = setting

    def prefill(self) -> Sample:
        """Let it time the prompt."""
        return self._run(self._setting.context, 0)

    def decode(self, batch: int) -> Sample | None:
        """Let it time decoding one sequence; it knows no batches."""
        return self._run(0, self._setting.steps[1]) if batch == 1 else None

    def _run(self, prompt: int, generate: int) -> Sample:
        done = subprocess.run(
            [*self._command, "-p", str(prompt), "-n", str(generate)], stdout=subprocess.PIPE, check=False
        )
        if done.returncode != 0:
            sys.exit(f"{self.name}: {self._command[0]} ended with status {done.returncode}")
        (result,) = json.loads(done.stdout)
        return Sample(prompt + generate, (prompt + generate) / result["avg_ts"], float("nan"))

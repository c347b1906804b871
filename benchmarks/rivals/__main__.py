"""Measure llama.cpp beside tritserve: the same shape, threads and context, random ternary weights, turns that alternate.

    python -m benchmarks.rivals --save rivals.json       # in a checkout; the first time it downloads and builds llama.cpp, 20 minutes
    python -m benchmarks.rivals --save rivals.json --only prefill    # a part: the file's other rows stay, if all else is the same

llama.cpp comes from the source package of llama-cpp-python on PyPI and is built for this CPU; its model files have TQ2_0 (two bits a
weight) or Q4_0 bodies and a Q6_K head. Downloads, builds and models stay in --folder. For another program with llama-bench's
options: --llama-bench 'NAME=PROGRAM,MODEL.gguf'.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.rivals.build import DEFAULT_VERSION, Rival, build
from benchmarks.rivals.engines import Engine, LlamaBench, LlamaCpp, Setting, Tritserve
from benchmarks.rivals.model import HEAD_TYPE, TYPES, write_model
from benchmarks.rivals.report import merged, rows_of, table

from tritserve.cli.bench_limits import Limits, buffer_bytes
from tritserve.cli.bench_shape import random_model
from tritserve.cli.diagnosis import cpu_facts
from tritserve.cli.locate import command_settings
from tritserve.isa import Isa
from tritserve.machine import largest_cache_bytes, read_machine, threads_per_worker
from tritserve.model.header import WeightsName
from tritserve.model.packed_file import open_packed
from tritserve.model.shapes import SHAPES
from tritserve.settings import writable_cache_dir

if TYPE_CHECKING:
    from tritserve.cli.bench_report import Sample

ROOT = Path(__file__).resolve().parents[2]
SETTLE_SECONDS = 0.05
"""Between turns: the threads of the last one stop spinning."""


def main() -> None:
    """Build what is missing, measure, save JSON and print a table."""
    options = parse()
    folder = options.folder or writable_cache_dir(command_settings(None)) / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    rival = build(folder, options.llama_version)
    models = [model_file(folder, options.shape, body_type) for body_type in options.types]
    packed_path = random_model(options.shape, None, say, options.weights)
    if options.prepare:
        say(f"ready: {rival.driver}")
        return
    machine = read_machine()
    processor = cpu_facts(machine)
    setting = Setting(
        options.threads or threads_per_worker(machine, 1)[0],
        options.context,
        options.batch,
        {batch: max(1, options.steps // batch) for batch in options.batch},
        options.turns,
    )
    limits = Limits(buffer_bytes(machine.available_bytes, largest_cache_bytes()))
    with ExitStack() as stack:
        packed = stack.enter_context(open_packed(packed_path))
        ours = Tritserve(packed, Isa.named(options.isa), setting, stack)
        precision = f"{{}} body; head {HEAD_TYPE}; KV float16"
        theirs: list[Engine] = [
            LlamaCpp(rival.driver, model, precision.format(body_type), setting, stack)
            for model, body_type in zip(models, options.types, strict=True)
        ]
        theirs += [LlamaBench(*parse_other(each), setting) for each in options.llama_bench]
        rows = measure([ours, *theirs], setting, ours, limits, options)
        shape = ours.shape
    report = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": {name: processor[name] for name in ("name", "architecture", "features", "physical_cores")},
        "note": options.note,
        "tritserve": {"revision": revision(), "isa": ours.isa.label},
        "llama.cpp": facts(rival, theirs),
        "shape": options.shape,
        "ternary_weights": shape.ternary_weights,
        "head_weights": shape.head_weights,
        "kv_bytes_per_token": shape.kv_bytes_per_token,
        "threads": setting.threads,
        "context": setting.context,
        "engines": {e.name: {"precision": e.precision, "weights_bytes": e.weights_bytes} for e in (ours, *theirs)},
        "limits": limits.report(),
        "rows": rows,
    }
    if options.save is not None:
        if options.save.exists():
            report = merged(json.loads(options.save.read_text(encoding="utf-8")), report)
        options.save.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rivals", description=(__doc__ or "").split("\n\n", 1)[0]
    )
    parser.add_argument("--folder", type=Path, help="downloads, builds, models (default: rivals/ in tritserve's cache)")
    parser.add_argument("--llama-version", default=DEFAULT_VERSION, help="of llama-cpp-python on PyPI")
    parser.add_argument("--save", type=Path, help="write the report as JSON")
    parser.add_argument("--note", help="what else to say of the machine, for example its microarchitecture")
    parser.add_argument("--only", choices=("prefill", "decode"), help="measure a part of it")
    parser.add_argument("--prepare", action="store_true", help="download, build and write the models, and stop")
    parser.add_argument("--shape", default="bitnet-b1.58-2b-4t", choices=sorted(SHAPES))
    parser.add_argument("--types", default=TYPES, type=lambda text: text.split(","), help="TQ2_0,Q4_0")
    parser.add_argument("--isa", default="auto", choices=[isa.label for isa in Isa], help="tritserve's instruction set")
    parser.add_argument("--weights", default="auto", choices=get_args(WeightsName), help="tritserve's packing")
    parser.add_argument("--threads", default=0, type=int, help="0: one per physical core")
    parser.add_argument("--context", default=512, type=int, help="tokens of the prompt")
    parser.add_argument("--batch", default=(1, 16, 32), type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--steps", default=32, type=int, help="tokens of a turn (at least one step)")
    parser.add_argument("--turns", default=5, type=int, help="turns of every engine, for each batch")
    parser.add_argument("--prefill-turns", default=3, type=int)
    parser.add_argument("--llama-bench", action="append", default=[], metavar="NAME=PROGRAM,MODEL.gguf")
    return parser.parse_args()


def parse_other(text: str) -> tuple[str, Path, Path]:
    """Split NAME=PROGRAM,MODEL.gguf."""
    name, _, rest = text.partition("=")
    program, _, model = rest.partition(",")
    if not name or not Path(program).is_file() or not Path(model).is_file():
        sys.exit(f"--llama-bench {text!r}: expected NAME=PROGRAM,MODEL.gguf, both files that exist")
    return name, Path(program).resolve(), Path(model).resolve()


def model_file(folder: Path, shape: str, body_type: str) -> Path:
    """Return the rival's model, written once."""
    path = folder / f"{shape}-{body_type}.gguf"
    if not path.exists():
        say(f"writing {path}")
        write_model(path, SHAPES[shape], body_type)
    return path


def measure(
    engines: list[Engine], setting: Setting, ours: Tritserve, limits: Limits, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Let the engines take turns, forwards and backwards, at every piece of work; return the rows."""
    rows = []
    works = [("prefill", 1), *(("decode", batch) for batch in setting.batches)]
    if options.only == "decode":
        for engine in engines:
            engine.prefill()  # what decoding goes on behind
    for work, batch in works:
        if options.only not in (None, work):
            continue
        say(f"{work}, batch {batch}")
        turns: dict[str, list[Sample]] = {engine.name: [] for engine in engines}
        for turn in range(options.prefill_turns if work == "prefill" else setting.turns):
            limits.sample(ours.isa, setting.threads)
            for engine in engines if turn % 2 == 0 else reversed(engines):
                time.sleep(SETTLE_SECONDS)
                sample = engine.prefill() if work == "prefill" else engine.decode(batch)
                if sample is not None:
                    turns[engine.name].append(sample)
        done = {name: samples for name, samples in turns.items() if samples}
        say("; ".join(f"{name} {sum(sample.seconds for sample in samples):.1f} s" for name, samples in done.items()))
        rows += rows_of(work, batch, setting.context, done, ours.name)
    return rows


def facts(rival: Rival, theirs: list[Engine]) -> dict[str, object]:
    """Return what llama.cpp was built from and what its build says it uses."""
    systems = [engine.system for engine in theirs if isinstance(engine, LlamaCpp)]
    return {
        "version": rival.llama_version,
        "package": rival.package,
        "sha256": rival.sha256,
        "compiler": rival.compiler,
        "system": systems[0] if systems else None,
    }


def revision() -> str | None:
    """Return the commit of this checkout; None outside of one."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def say(what: str) -> None:
    """Tell the person who waits."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

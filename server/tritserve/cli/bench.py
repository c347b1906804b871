"""``tritserve bench``: the machine's limits and the model's steps in one run, so that a share means the same everywhere; or a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003  # typer resolves the annotations
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritserve.cli.bench_limits import Limits, buffer_bytes, supported_isas
from tritserve.cli.bench_load import Load, measure_server, require_no_failures
from tritserve.cli.bench_measure import Plan, measure_body, measure_steps
from tritserve.cli.bench_shape import random_model
from tritserve.cli.diagnosis import cpu_facts, memory_facts, software_facts
from tritserve.cli.locate import packed_file
from tritserve.errors import SettingsError
from tritserve.isa import Isa, IsaName
from tritserve.kv_dtype import KvDtype, KvDtypeName
from tritserve.machine import largest_cache_bytes, read_machine, threads_per_worker
from tritserve.model.header import WeightsName  # noqa: TC001  # typer resolves the annotations
from tritserve.model.packed_file import open_packed
from tritserve.model.shapes import SHAPES
from tritserve.settings import client_api_key

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(add_completion=False)
MAX_BATCH = 1024
MAX_THREADS = 256
MAX_REQUESTS = 100_000
_RESERVED_BYTES = 256 * 1024 * 1024
"""Left free beside the model and the KV cache, as when serving."""


@app.command()
def bench(
    model: Annotated[str | None, typer.Argument(help="Checkpoint folder, .trit file, hub id, or 'demo'.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help=f"Random weights of a published shape: {', '.join(SHAPES)}.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=MAX_THREADS, help="Compute threads; 0: as when serving.")
    ] = 0,
    isa: Annotated[IsaName, typer.Option("--isa", help="Instruction set.")] = "auto",
    weights: Annotated[
        WeightsName, typer.Option("--weights", help="Packing of the ternary weights: fast, skip or dense.")
    ] = "auto",
    no_skip: Annotated[
        bool, typer.Option("--no-skip", help="Read and multiply also what squared ReLU zeroes; the same bits.")
    ] = False,
    zeros: Annotated[
        Literal["random", "demo"],
        typer.Option("--zeros", help="Share of zeros of a --shape: half the gates, or as the trained demo model."),
    ] = "random",
    kv_dtype: Annotated[KvDtypeName, typer.Option("--kv-dtype", help="Type of stored keys and values.")] = "int16",
    prefill: Annotated[int, typer.Option("--prefill", min=1, help="Tokens of the prompt.")] = 512,
    decode: Annotated[int, typer.Option("--decode", min=1, help="Tokens each sequence generates.")] = 128,
    batch: Annotated[
        str, typer.Option("--batch", help="Sequences decoded together: numbers separated by commas.")
    ] = "1,16",
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="Load a running server instead: --batch clients at once, --prefill words, --decode tokens."
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option("--requests", min=1, max=MAX_REQUESTS, help="With --url: requests per number of clients.")
    ] = 32,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="With --url: file of the API key (or TRITSERVE_API_KEY).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="Folder of packed models.")] = None,
) -> None:
    """Measure model steps as shares of this machine's own limits, which the same run measures; or load a running server with --url.

    Without a model or shape: the demo model, or the first that the server has.
    """
    batches = _parse_batches(batch)
    say = _say if sys.stderr.isatty() or not as_json else _keep_quiet
    if url is not None:
        if shape is not None or threads or isa != "auto" or weights != "auto":
            raise SettingsError(
                "--shape, --threads, --isa and --weights are the server's to choose: with --url they do nothing"
            )
        _bench_server(url, key_file, model, Load(batches, requests, prefill, decode), as_json, say)
        return
    if model is not None and shape is not None:
        raise SettingsError("give a model or --shape, not both")
    if zeros == "demo" and shape is None:
        raise SettingsError("--zeros demo is for the random weights of a --shape")
    wanted = Isa.named(isa)
    if wanted is not Isa.AUTO and wanted not in supported_isas():
        able = ", ".join(each.label for each in supported_isas())
        raise SettingsError(f"--isa {isa} cannot run here, not measured; this machine and build run: {able}")
    machine = read_machine()
    path = (
        packed_file(model or "demo", cache_dir, weights)
        if shape is None
        else random_model(shape, cache_dir, say, weights, like_demo=zeros == "demo")
    )
    with open_packed(path) as packed:
        room = max(0, machine.available_bytes - packed.file_bytes - _RESERVED_BYTES)
        num_threads = threads or threads_per_worker(machine, 1)[0]
        plan = Plan(wanted, num_threads, prefill, decode, batches, room, not no_skip, KvDtype.named(kv_dtype))
        limits = Limits(buffer_bytes(machine.available_bytes, largest_cache_bytes()), packed)
        say("limits of the machine")
        limits.sample_all(plan.threads)
        report = {
            "machine": {**cpu_facts(machine), **memory_facts(machine), **software_facts()},
            "model": {
                "name": shape or model or "demo",
                "weights_sha256": packed.header.weights_sha256,
                "kv_dtype": kv_dtype,
            },
            "body": measure_body(packed, plan, limits, say),
            "rows": measure_steps(packed, plan, limits, say),
            "limits": limits.report(),
        }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        from tritserve.cli.bench_table import print_report

        print_report(report, small=packed.file_bytes < 128 * 1024 * 1024)


def _bench_server(
    url: str, key_file: Path | None, model: str | None, load: Load, as_json: bool, say: Callable[[str], None]
) -> None:
    report = measure_server(url, client_api_key(key_file), model, load, say)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        from tritserve.cli.bench_load_table import print_load_report

        print_load_report(report)
    require_no_failures(report)


def _parse_batches(text: str) -> tuple[int, ...]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = [0]
    if not all(1 <= each <= MAX_BATCH for each in batches):
        raise SettingsError(f"--batch is {text[:100]!r}, expected numbers from 1 to {MAX_BATCH} separated by commas")
    return tuple(dict.fromkeys(batches))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _keep_quiet(what: str) -> None:
    """Say nothing: a program reads the output."""

"""``tritserve doctor``: what this machine gives, what would be chosen on it and why, and whether it computes right."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  # typer resolves the annotations
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tritserve.cli.bench_limits import read_facts
from tritserve.cli.diagnosis import (
    Check,
    calibration_facts,
    check_answers,
    check_checksums,
    check_machine,
    check_plan,
    cpu_facts,
    isa_facts,
    memory_facts,
    plan_facts,
    software_facts,
)
from tritserve.cli.locate import packed_file
from tritserve.errors import ServerError
from tritserve.machine import read_machine
from tritserve.model.packed_file import open_packed
from tritserve.settings import Settings, load_settings, print_settings, writable_cache_dir

app = typer.Typer(add_completion=False)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, .trit file, hub id, or 'demo'.")] = "demo",
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="Folder of packed models.")] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Also write everything as JSON; holds no prompt and no key.")
    ] = None,
) -> None:
    """Examine machine and model; exit with 1 if something is wrong."""
    settings = load_settings({"cache_dir": cache_dir}).settings
    report, checks = examine(model, settings)
    if bundle is not None:
        try:
            bundle.write_text(json.dumps({**report, "checks": [asdict(check) for check in checks]}, indent=2) + "\n")
        except OSError as error:
            raise ServerError(f"cannot write {bundle}: {error.strerror or error}") from error
    _print(report, checks)
    if any(check.result == "fail" for check in checks):
        raise typer.Exit(1)


def examine(model: str, settings: Settings) -> tuple[dict[str, object], list[Check]]:
    """Return the facts by topic, and every check in the order it was made. What fails is a check, not an exception."""
    machine = read_machine()
    report: dict[str, object] = {
        "software": software_facts(),
        "cpu": cpu_facts(machine),
        "isa": isa_facts(settings),
        "memory": memory_facts(machine),
        "settings": print_settings(settings).splitlines(),
    }
    checks = check_machine(settings, machine)
    try:
        checks.append(Check("cache folder", "ok", str(writable_cache_dir(settings))))
    except ServerError as error:
        checks.append(Check("cache folder", "fail", str(error)))
    try:
        packed = open_packed(packed_file(model, settings.cache_dir))
    except ServerError as error:
        return report, [*checks, Check("model", "fail", str(error))]
    with packed:
        report["model"] = {
            "name": model,
            "file": str(packed.path),
            "file_bytes": packed.file_bytes,
            "weights_sha256": packed.header.weights_sha256,
        }
        report["calibration"] = calibration_facts(settings, packed)
        planned, starts = check_plan(settings, packed)
        threads = starts[0].num_threads if starts else 1
        if starts:
            report["threads"] = plan_facts(settings, machine, starts)
        report["read"] = read_facts(packed, threads, machine.available_bytes)
        checks += [planned, check_checksums(packed), *check_answers(packed, threads)]
    return report, checks


def _print(report: dict[str, object], checks: list[Check]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    facts = Table("", "", Column(overflow="fold"), show_header=False, box=None, pad_edge=False)
    for topic, values in report.items():
        if isinstance(values, dict):
            for index, (name, value) in enumerate(values.items()):
                facts.add_row(f"[bold]{topic}[/]" if index == 0 else "", name, escape(_shown(value)))
    console.print(facts)
    console.print()
    for check in checks:
        console.print(f"[{_COLOURS[check.result]}]{check.result:4}[/]  {check.name}: {escape(check.detail)}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or "none"
    if value is None:
        return "no limit"
    return f"{value:,}" if isinstance(value, int) else str(value)

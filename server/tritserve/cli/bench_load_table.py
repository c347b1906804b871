"""The report of ``tritserve bench --url`` for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_LEAST_WIDTH = 110


def print_load_report(report: dict[str, Any]) -> None:
    """Print a line per level: rates, and p50 / p95 / p99 of what the clients saw, in milliseconds."""
    console = Console(highlight=False)
    console.width = max(console.width, _LEAST_WIDTH)
    load = report["load"]
    console.print(
        f"[bold]{report['model']}[/], {load['requests']} requests per level, {load['words']} words in, {load['output_tokens']} tokens out"
    )
    table = Table(
        "at once", "tokens/s", "requests/s", "failed", "TTFT ms", "TPOT ms", "ITL ms", box=None, pad_edge=False
    )
    for row in report["rows"]:
        table.add_row(
            str(row["concurrency"]),
            f"{row['output_tokens_per_second']:.1f}",
            f"{row['requests_per_second']:.2f}",
            str(row["failed"]),
            *(_milliseconds(row[name]) for name in ("ttft_seconds", "tpot_seconds", "itl_seconds")),
        )
    console.print(table)
    console.print("each time: p50 / p95 / p99")


def _milliseconds(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return " / ".join(f"{1000 * found[name]:.1f}" for name in ("p50", "p95", "p99"))

"""The report of ``tritserve bench`` for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_LEAST_WIDTH = 130


def print_report(report: dict[str, Any], *, small: bool) -> None:
    """Print limits, body and rows. ``small``: the model may stay in the processor's caches."""
    console = Console(highlight=False)
    console.width = max(console.width, _LEAST_WIDTH)
    machine, model = report["machine"], report["model"]
    console.print(f"[bold]{machine['name']}[/], {machine['physical_cores']} cores; {model['name']}")
    console.print(_limits(report["limits"]))
    console.print(_body(report["body"]))
    console.print(_rows(report["rows"]))
    if small:
        console.print("A model this small stays in the caches: its share of the memory's limit means little.")


def _limits(limits: dict[str, Any]) -> Table:
    table = Table("limit", "threads", "median", "least .. most", box=None, pad_edge=False)
    for threads, found in limits["read_bytes_per_second"].items():
        table.add_row(f"sequential read, GB/s ({limits['read_from']})", threads, *_spread(found, 1e9))
    for threads, best in limits["best_read"].items():
        table.add_row("best read, GB/s", threads, f"{best['bytes_per_second'] / 1e9:.4g}", best["pattern"])
    for isa, by_threads in limits["int8_ops_per_second"].items():
        for threads, found in by_threads.items():
            table.add_row(f"int8 {isa}, TOPS", threads, *_spread(found, 1e12))
    return table


def _body(body: dict[str, Any]) -> Table:
    table = Table("ternary body alone", "threads", "median", "least .. most", "of read", box=None, pad_edge=False)
    for threads, found in body.items():
        table.add_row("GEMV, GB/s", threads, *_spread(found["bytes_per_second"], 1e9), f"{found['share_of_read']:.0%}")
    return table


def _rows(rows: list[dict[str, Any]]) -> Table:
    heads = (
        "work",
        "batch",
        "context",
        "threads",
        "isa",
        "tokens/s",
        "least .. most",
        "MB/token",
        "zeros",
        "GOP/token",
        "CPU s/1000",
        "of read",
        "of int8",
    )
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            *(str(row[name]) for name in ("work", "batch", "context", "threads", "isa")),
            *_spread(row["tokens_per_second"], 1),
            f"{row['bytes_per_token'] / 1e6:.1f}",
            f"{row['zero_share']:.0%}",
            f"{row['ops_per_token'] / 1e9:.2f}",
            f"{row['cpu_seconds_per_1000_tokens']:.2f}",
            _share(row, "memory"),
            _share(row, "compute"),
        )
    return table


def _share(row: dict[str, Any], limit: str) -> str:
    """The row's share of one limit; the larger one, which holds it, in bold."""
    share = f"{row[f'{limit}_share']:.0%}"
    return f"[bold]{share}[/]" if row["limit"] == limit else share


def _spread(found: dict[str, float], unit: float) -> tuple[str, str]:
    return f"{found['median'] / unit:.4g}", f"{found['min'] / unit:.4g} .. {found['max'] / unit:.4g}"

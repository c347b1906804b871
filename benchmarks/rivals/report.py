"""Turns become rows: medians, spread, and ratios of turns that followed one another. Pure."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from tritserve.cli.bench_report import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritserve.cli.bench_report import Sample

Row = dict[str, Any]


def rows_of(work: str, batch: int, context: int, turns: Mapping[str, Sequence[Sample]], ours: str) -> list[Row]:
    """Return one row per engine; ``turns[engine][i]`` was measured in round i. A ratio is ours over theirs, in the same round."""
    rows = []
    for engine, samples in turns.items():
        rates = [sample.num_tokens / sample.seconds for sample in samples]
        row: Row = {"work": work, "batch": batch, "context": context, "engine": engine}
        row["tokens_per_second"] = spread(rates)
        cpu = 1000 * sum(sample.cpu_seconds for sample in samples) / sum(sample.num_tokens for sample in samples)
        row["cpu_seconds_per_1000_tokens"] = None if math.isnan(cpu) else float(f"{cpu:.4g}")
        if engine != ours:
            own = [sample.num_tokens / sample.seconds for sample in turns[ours]]
            row["ours_over_theirs"] = spread([a / b for a, b in zip(own, rates, strict=True)])
        rows.append(row)
    return rows


def merged(earlier: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report with the rows of an earlier one that it lacks. Exits if the two were not measured alike."""
    changing = ("date", "limits", "rows")
    for name in report.keys() | earlier.keys():
        if name not in changing and report.get(name) != earlier.get(name):
            sys.exit(f"the file has another {name} ({earlier.get(name)}, now {report.get(name)}): save to a new one")
    new = {(row["work"], row["batch"]) for row in report["rows"]}
    kept = [row for row in earlier["rows"] if (row["work"], row["batch"]) not in new]
    rows = sorted(
        [*kept, *report["rows"]], key=lambda row: (row["work"], row["batch"])
    )  # stable: engines stay in order
    return {**report, "rows": rows}


def table(report: Mapping[str, Any]) -> str:
    """Return the report as a Markdown table: a line per work and engine."""
    lines = [
        "| work | batch | engine | tokens/s (least .. most) | tritserve is faster by | CPU s per 1,000 tokens |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        rate, cpu = row["tokens_per_second"], row["cpu_seconds_per_1000_tokens"]
        ratio = row.get("ours_over_theirs")
        faster = f"{ratio['median']:.2f}x ({ratio['min']:.2f} .. {ratio['max']:.2f})" if ratio else ""
        lines.append(
            f"| {row['work']} | {row['batch']} | {row['engine']} | {rate['median']:.4g} ({rate['min']:.4g} .. {rate['max']:.4g}) | "
            f"{faster} | {'' if cpu is None else f'{cpu:.4g}'} |"
        )
    return "\n".join(lines)

"""Turn a saved comparison (benchmarks/rivals) into README's table and docs/roofline.svg.

python -m benchmarks.figures            # from docs/figures.json; the plot needs matplotlib (extra `benchmarks`)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "figures.json"
README = ROOT / "README.md"
PLOT = ROOT / "docs" / "roofline.svg"
BEGIN, END = "<!-- figures: written by benchmarks/figures.py from docs/figures.json -->\n", "<!-- figures end -->\n"
OURS = "tritserve"


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("report", nargs="?", default=REPORT, type=Path)
    report = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
    README.write_text(with_table(README.read_text(encoding="utf-8"), report), encoding="utf-8")
    from benchmarks.roofline import draw

    draw(report, PLOT)


def with_table(readme: str, report: Mapping[str, Any]) -> str:
    """Return README with the part between the marks replaced. Raises ValueError without marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + measured(report) + END + after


def measured(report: Mapping[str, Any]) -> str:
    """Return what was measured on what, as Markdown."""
    machine, rivals = report["machine"], [name for name in report["engines"] if name != OURS]
    note = f", {report['note']}" if report.get("note") else ""
    head = ["work", *(f"{name}, tokens/s" for name in report["engines"]), *(f"against {name}" for name in rivals)]
    lines = [
        f"{machine['name']}{note}, {machine['physical_cores']} cores, {report['threads']} threads, {report['tritserve']['isa']}; "
        f"shape of {report['shape']}, random ternary weights; a context of {report['context']} tokens. In brackets CPU seconds per "
        "1,000 tokens.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for work, batch in dict.fromkeys((row["work"], row["batch"]) for row in report["rows"]):
        rows = {row["engine"]: row for row in report["rows"] if (row["work"], row["batch"]) == (work, batch)}
        cells = [label(work, batch, report["context"])]
        cells += [_rate(rows.get(name)) for name in report["engines"]]
        cells += [_ratio(rows.get(name)) for name in rivals]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {name}: {engine['precision']}" for name, engine in report["engines"].items()]
    return "\n".join(lines) + "\n"


def label(work: str, batch: int, context: int) -> str:
    """Name a piece of work for people."""
    if work == "prefill":
        return f"prefill of {context} tokens"
    return f"decode, {batch} sequence{'s' * (batch > 1)}"


def _rate(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    cpu = row["cpu_seconds_per_1000_tokens"]
    return f"{row['tokens_per_second']['median']:.1f}" + ("" if cpu is None else f" ({cpu:.0f})")


def _ratio(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    ratio = row["ours_over_theirs"]
    return f"{ratio['median']:.2f}x ({ratio['min']:.2f} to {ratio['max']:.2f})"


if __name__ == "__main__":
    main()

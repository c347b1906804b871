"""Draw a saved comparison under the machine's roofs: what was computed per byte of weights and KV, and how fast.

Operations are what the model asks for, two per weight and token (the head once per row of logits), however an engine computes them; bytes
are what a step reads of weights and KV. So a point's height is its speed, alike for every engine. The roofs were measured
between the turns, with as many threads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INK = "#808890"
"""Readable on white and on black."""
COLOURS = ("#e8590c", "#1c7ed6", "#2f9e44", "#9c36b5", "#c2255c")
MARKERS = "oDs^v"


@dataclass(frozen=True, slots=True)
class Point:
    """One row of the report: operations per byte, operations per second, share of the roof above it (0 to 1)."""

    intensity: float
    speed: float
    share: float


def roofs(report: Mapping[str, Any]) -> tuple[float, float]:
    """Return bytes read per second and int8 operations per second."""
    threads, limits = str(report["threads"]), report["limits"]
    read = limits["read_bytes_per_second"][threads]["median"]
    return float(read), float(limits["int8_ops_per_second"][report["tritserve"]["isa"]][threads]["median"])


def point(report: Mapping[str, Any], row: Mapping[str, Any]) -> Point:
    """Place a row. A prefill reads the weights once and has one row of logits."""
    body, head, kv = report["ternary_weights"], report["head_weights"], report["kv_bytes_per_token"]
    weights = report["engines"][row["engine"]]["weights_bytes"]
    if row["work"] == "prefill":
        operations, num_bytes = 2 * (body + head / row["context"]), weights / row["context"] + kv
    else:
        operations, num_bytes = 2 * (body + head), weights / row["batch"] + row["context"] * kv
    intensity = operations / num_bytes
    speed = row["tokens_per_second"]["median"] * operations
    read, peak = roofs(report)
    return Point(intensity, speed, speed / min(intensity * read, peak))


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the plot as SVG, on no background. Exits without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("the plot needs matplotlib: pip install matplotlib (or the extra `benchmarks`)")
    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {"svg.hashsalt": "tritserve", "svg.fonttype": "none", "font.size": 10, "text.color": INK, "axes.edgecolor": INK}
    )
    pyplot.rcParams.update({"axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK})
    figure, axes = pyplot.subplots(figsize=(8.5, 5))
    points = {(row["engine"], row["work"], row["batch"]): point(report, row) for row in report["rows"]}
    read, peak = roofs(report)
    least, most = 0.5 * min(p.intensity for p in points.values()), 2 * max(p.intensity for p in points.values())
    axes.plot([least, peak / read, most], [least * read / 1e9, peak / 1e9, peak / 1e9], color=INK, linewidth=1.5)
    axes.annotate(f"read {read / 1e9:.1f} GB/s  ", (peak / read / 3, peak / 3e9), ha="right")
    axes.annotate(
        f"int8 multiply-adds, {report['tritserve']['isa']}: {peak / 1e12:.2f}·10¹²/s", (peak / read, peak / 0.93e9)
    )
    for index, engine in enumerate(report["engines"]):
        mine = [(key, p) for key, p in points.items() if key[0] == engine]
        axes.plot(
            [p.intensity for _, p in mine],
            [p.speed / 1e9 for _, p in mine],
            MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            label=engine,
            markersize=7,
        )
        for (_, work, batch), p in mine:
            text = f"{'prefill' if work == 'prefill' else batch}, {p.share:.0%}"
            axes.annotate(text, (p.intensity, p.speed / 1e9), xytext=(7, -4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of weights and KV", ylabel="10⁹ operations/s")
    axes.set_ylim(top=1.5 * peak / 1e9)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(color=INK, alpha=0.2, which="both", linewidth=0.5)
    axes.legend(frameon=False, loc="lower right")
    name = report["machine"]["name"] + (f", {report['note']}" if report.get("note") else "")
    axes.set_title(
        f"{name}, {report['threads']} threads: decoding 1, 16, 32 sequences and a prefill; share of the roof above",
        fontsize=10,
        color=INK,
    )
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)

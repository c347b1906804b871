"""Compare two builds fairly: run both in turn, A B B A, several rounds, and print medians, ratios of neighbouring runs and their spread.

    python -m benchmarks.compare --a main --b . --kernels '--isa avx2 --op gemv'      # kerncheck --bench of two trees
    python -m benchmarks.compare --a main --b . --steps '--shape small --batch 1,16'   # tritserve bench of two trees
    python -m benchmarks.compare --a 'old/tritserve bench demo --json' --b 'new/tritserve bench demo --json'

A side is a git revision or a folder with the sources, which is built first (revisions in a worktree in tritserve's cache), or, without
--kernels and --steps, a command that prints what those print: a JSON object with ``rows``, or kerncheck's lines. Rows are matched by
what they measure. Machines drift (frequency, neighbours): a ratio whose rounds lie on both sides of 1 is called noise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.trees import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEYS = ("work", "batch", "context", "threads", "isa", "concurrency", "engine")
KERNEL_LINE = re.compile(
    r"^\s+(?P<isa>\S+)\s+(?P<what>\S.*?)\s+(?P<threads>\d+) threads?\s+(?P<us>[\d.]+) us\b", re.MULTILINE
)
LEAST_ROUNDS = 4
"""Equal sides fall on one side of 1 in all of so many rounds by chance once in 8 comparisons; in the 5 rounds of the default, in 16."""
Rates = dict[str, float]


def main() -> None:
    """Build the sides, run them in turn, print a table on standard error and JSON on standard output."""
    options = parse()
    sides = {side: command(getattr(options, side), options) for side in "ab"}
    rounds: dict[str, list[Rates]] = {"a": [], "b": []}
    for index in range(options.rounds):
        for side in "ab" if index % 2 == 0 else "ba":
            arguments, environment = sides[side]
            rounds[side].append(measure(arguments, environment))
            print(f"round {index + 1} of {options.rounds}: {side} done", file=sys.stderr)
    report = compare(rounds["a"], rounds["b"])
    if not report:
        sys.exit("the two sides have no row in common")
    for row in report:
        spread = f"x{row['ratio']:.3f} ({row['least']:.3f} .. {row['most']:.3f}) {row['verdict']}"
        print(f"{row['row']:70} {row['a']:12.5g} {row['b']:12.5g} {spread}", file=sys.stderr)
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").split("\n\n", 1)[0]
    )
    parser.add_argument("--a", required=True, help="before: a revision, a folder, or a command")
    parser.add_argument("--b", required=True, help="after")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--kernels", metavar="ARGUMENTS", help="compare `kerncheck --bench ARGUMENTS`")
    what.add_argument("--steps", metavar="ARGUMENTS", help="compare `tritserve bench --json ARGUMENTS`")
    parser.add_argument("--rounds", default=5, type=int)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def command(side: str, options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Return the command of a side and its environment; what it runs is built here."""
    if options.kernels is not None:
        return [str(Tree.of(side).kerncheck()), "--bench", *shlex.split(options.kernels)], dict(os.environ)
    if options.steps is not None:
        environment = {**os.environ, "PYTHONPATH": str(Tree.of(side).package())}
        return [sys.executable, "-P", "-m", "tritserve", "bench", "--json", *shlex.split(options.steps)], environment
    return shlex.split(side), dict(os.environ)


def measure(arguments: Sequence[str], environment: Mapping[str, str]) -> Rates:
    """Run one side; return its rates (of anything per second) by what was measured."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(arguments)} ended with {done.returncode}")
    return rates(done.stdout)


def rates(printed: str) -> Rates:
    """Read the rows of a JSON report, or the lines of kerncheck --bench."""
    if not printed.lstrip().startswith("{"):
        found = KERNEL_LINE.finditer(printed)
        return {f"{m['isa']} {m['what']} threads={m['threads']}": 1e6 / float(m["us"]) for m in found}
    return {
        " ".join(f"{key}={row[key]}" for key in KEYS if row.get(key) is not None): _rate(row)
        for row in json.loads(printed)["rows"]
    }


def _rate(row: Mapping[str, Any]) -> float:
    value = row.get("tokens_per_second", row.get("output_tokens_per_second"))
    if isinstance(value, dict):
        value = value["median"]
    if not isinstance(value, int | float):
        sys.exit(f"this row has no tokens per second: {row}")
    return float(value)


def compare(a: Sequence[Rates], b: Sequence[Rates]) -> list[dict[str, Any]]:
    """Return a row per thing that both sides measured in every round; a ratio is b over a, of the same round."""
    report = []
    for name in a[0]:
        if not all(name in each for each in (*a, *b)):
            continue
        ratios = [after[name] / before[name] for before, after in zip(a, b, strict=True)]
        least, most = min(ratios), max(ratios)
        report.append(
            {
                "row": name,
                "a": statistics.median(each[name] for each in a),
                "b": statistics.median(each[name] for each in b),
                "ratio": statistics.median(ratios),
                "least": least,
                "most": most,
                "verdict": _verdict(ratios),
            }
        )
    return report


def _verdict(ratios: Sequence[float]) -> str:
    if min(ratios) <= 1 <= max(ratios):
        return "noise"
    return "differs" if len(ratios) >= LEAST_ROUNDS else "too few rounds to tell"


if __name__ == "__main__":
    main()

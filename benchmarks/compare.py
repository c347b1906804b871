"""Compare two builds fairly: run their commands in turn, A B B A, several rounds, and print medians, spread and ratio.

    python benchmarks/compare.py --rounds 5 \
        --a '/tmp/before/.venv/bin/tritserve bench --decode 64 --json' \
        --b '.venv/bin/tritserve bench --decode 64 --json'

Each command prints one JSON object with ``rows``. Rows are matched by what they measure; machines drift (frequency, neighbours),
so a difference inside the spread of either side is called noise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys

Row = dict[str, object]
KEYS = ("work", "batch", "context", "threads", "isa", "concurrency")


def rate(row: Row) -> float:
    """Return the row's tokens per second, of `tritserve bench` or of serving.py."""
    value = row.get("tokens_per_second", row.get("output_tokens_per_second"))
    if isinstance(value, dict):
        value = value["median"]
    if not isinstance(value, (int, float)):
        raise SystemExit(f"this row has no tokens per second: {row}")
    return float(value)


def measure(command: str) -> dict[str, float]:
    """Run one command; return its rates by what was measured."""
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=True)
    rows: list[Row] = json.loads(done.stdout)["rows"]
    return {" ".join(f"{key}={row[key]}" for key in KEYS if key in row): rate(row) for row in rows}


def main() -> None:
    """Parse the command line, run both in turn, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description="Compare two benchmark commands with interleaved runs.")
    parser.add_argument("--a", required=True, help="command before the change")
    parser.add_argument("--b", required=True, help="command after the change")
    parser.add_argument("--rounds", default=5, type=int)
    options = parser.parse_args()
    rates: dict[str, dict[str, list[float]]] = {"a": {}, "b": {}}
    for index in range(options.rounds):
        for side in "ab" if index % 2 == 0 else "ba":
            for name, value in measure(getattr(options, side)).items():
                rates[side].setdefault(name, []).append(value)
            print(f"round {index + 1} of {options.rounds}: {side} done", file=sys.stderr)
    report = []
    for name in sorted(rates["a"].keys() & rates["b"].keys()):
        a, b = rates["a"][name], rates["b"][name]
        spread = max((max(side) - min(side)) / statistics.median(side) for side in (a, b))
        ratio = statistics.median(b) / statistics.median(a)
        report.append(
            {"row": name, "a": statistics.median(a), "b": statistics.median(b), "ratio": ratio, "spread": spread}
        )
        verdict = "noise" if abs(ratio - 1) <= spread else "differs"
        line = f"{statistics.median(a):10.2f} {statistics.median(b):10.2f} x{ratio:.3f} +-{spread:.3f} {verdict}"
        print(f"{name:60} {line}", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

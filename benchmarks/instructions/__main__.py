"""Compare the instructions of the demo model's step with the committed counts: a slowdown that no clock is needed to see.

    python -m benchmarks.instructions --driver build/test/step_driver            # `make instructions`; 1 if a count grew by more than 2 %
    python -m benchmarks.instructions --driver build/test/step_driver --renew    # write the counts of this compiler

valgrind's callgrind counts what trit_session_step executes, one thread. It knows AVX2 but nothing wider, so that is what is counted.
Counts belong to a compiler: without valgrind, or for a compiler that has no counts, nothing is compared, and the reason is printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tritserve.cli.locate import packed_file
from tritserve.model.packed_file import open_packed

if TYPE_CHECKING:
    from tritserve.model.header import Header

COUNTS = Path(__file__).with_name("counts.json")
TOLERANCE = 0.02
ISA = "avx2"
CANNOT_RUN = 3
WORK = {
    "decode, 1 sequence": ("decode", 1, 32),
    "decode, 16 sequences": ("decode", 16, 4),
    "prefill": ("prefill", 128, 1),
}
"""Name: what, rows of a step, steps."""
Counts = dict[str, int]


def main() -> None:
    """Count, then compare or renew."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--driver", required=True, type=Path, help="the built step_driver")
    parser.add_argument("--renew", action="store_true", help="write the counts instead of comparing with them")
    options = parser.parse_args()
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("instructions: not compared, valgrind is not here (apt-get install valgrind)")
        return
    compiler = compiler_of(options.driver.resolve().parent)
    known: dict[str, Counts] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if compiler not in known and not options.renew:
        print(f"instructions: not compared, {COUNTS.name} has no counts of {compiler} (only: {', '.join(known)})")
        return
    counts = count_all(valgrind, options.driver)
    if counts is None:
        print(f"instructions: not compared, {ISA} does not run here under valgrind")
    elif options.renew:
        COUNTS.write_text(json.dumps(known | {compiler: counts}, indent=2) + "\n")
        print(f"{COUNTS}: {counts}")
    else:
        lines, grown = compare(counts, known[compiler])
        print("\n".join(lines))
        if grown:
            sys.exit(
                f"instructions: a step executes over {TOLERANCE:.0%} more than committed. Find out why; if it is meant, run "
                "`make instructions-renew` and say in the commit what it buys"
            )


def compare(counts: Counts, expected: Counts) -> tuple[list[str], bool]:
    """Return a line per count, and whether one grew beyond the tolerance or is not expected at all."""
    lines, grown = [], False
    for name, count in counts.items():
        if name not in expected:
            lines.append(f"instructions: {name}: {count:,} per step, not in {COUNTS.name}")
            grown = True
            continue
        change = count / expected[name] - 1
        grown = grown or change > TOLERANCE
        note = "; renew the counts, so that this is kept" if change < -TOLERANCE else ""
        lines.append(
            f"instructions: {name}: {count:,} per step, {change:+.2%} of the committed {expected[name]:,}{note}"
        )
    return lines, grown


def compiler_of(build_folder: Path) -> str:
    """Return the architecture and the compiler's name and major version that CMake used in ``build_folder``."""
    cache = (build_folder / "CMakeCache.txt").read_text(encoding="utf-8")
    compiler = re.search(r"^CMAKE_C_COMPILER:\w+=(.+)$", cache, re.MULTILINE)
    if compiler is None:
        sys.exit(f"{build_folder}/CMakeCache.txt names no C compiler")
    told = subprocess.run(
        [compiler[1], "-dM", "-E", "-x", "c", "/dev/null"], capture_output=True, text=True, check=True
    )
    macros = dict(re.findall(r"^#define (__clang_major__|__GNUC__) (\d+)$", told.stdout, re.MULTILINE))
    name = f"clang {macros['__clang_major__']}" if "__clang_major__" in macros else f"gcc {macros.get('__GNUC__')}"
    return f"{platform.machine()} {ISA} {name}"


def count_all(valgrind: str, driver: Path) -> Counts | None:
    """Return instructions per step of every piece of work; None if the instruction set cannot run here."""
    path = packed_file("demo", None)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as table, open_packed(path) as packed:
        table.write(table_of(packed.header))
        table.flush()
        counts = {}
        for name, (what, num_rows, num_steps) in WORK.items():
            arguments = [table.name, str(path), ISA, what, str(num_rows), str(num_steps)]
            total = count(valgrind, [str(driver), *arguments])
            if total is None:
                return None
            counts[name] = total // num_steps
        return counts


def count(valgrind: str, command: list[str]) -> int | None:
    """Return the instructions of all steps together."""
    tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=trit_session_step"]
    done = subprocess.run([valgrind, *tool, *command], capture_output=True, text=True, check=False)
    if done.returncode == CANNOT_RUN:
        return None
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or collected is None or collected[1] == "0":
        sys.exit(f"instructions: {command[0]} failed under valgrind ({done.returncode}):\n{done.stderr[-2000:]}")
    return int(collected[1])


def table_of(header: Header) -> str:
    """Return dimensions and tensors as the driver reads them."""
    a = header.architecture
    sizes = (a.hidden, a.intermediate, a.n_layers, a.n_heads, a.n_kv_heads, a.head_dim, a.vocab, a.max_positions)
    lines: list[tuple[object, ...]] = [(*sizes, int(a.activation), int(a.sub_norms), a.norm_eps)]
    lines += [
        (int(t.kind), t.layer, int(t.layout), t.layout_version, t.n, t.k, t.offset, t.bytes, t.scale)
        for t in header.tensors
    ]
    return "".join(" ".join(map(str, line)) + "\n" for line in lines)


if __name__ == "__main__":
    main()

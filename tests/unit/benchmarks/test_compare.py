"""The comparison of two builds: which rows it reads, how rounds are paired, and when a difference is one."""

import json

import pytest
from benchmarks.compare import compare, rates

KERNCHECK = """kerncheck: best instruction set avx2
  avx2         gemv 6912 x 2560                       1 thread      312.50 us   14.16 GB/s ( 95 % of read)
  avx2         gemv 6912 x 2560                       2 threads     200.00 us   22.12 GB/s ( 93 % of read)
  ref          gemv 64 x 64, dense                    1 thread        4.00 us    0.26 GB/s
0 failed
"""


def test_lines_of_kerncheck_become_calls_per_second() -> None:
    assert rates(KERNCHECK) == {
        "avx2 gemv 6912 x 2560 threads=1": 3200.0,
        "avx2 gemv 6912 x 2560 threads=2": 5000.0,
        "ref gemv 64 x 64, dense threads=1": 250000.0,
    }


def test_rows_of_steps_and_of_a_loaded_server_are_read_by_what_they_measure() -> None:
    steps = {"work": "decode", "batch": 4, "context": 512, "threads": 2, "isa": "avx2", "zero_share": 0.5}
    rows = [
        {**steps, "tokens_per_second": {"median": 37.5, "min": 30, "max": 40}},
        {"work": "serving", "concurrency": 16, "output_tokens_per_second": 55.5},
    ]
    assert rates(json.dumps({"rows": rows})) == {
        "work=decode batch=4 context=512 threads=2 isa=avx2": 37.5,
        "work=serving concurrency=16": 55.5,
    }


def test_a_ratio_pairs_neighbouring_runs_so_that_a_drift_of_the_machine_cancels() -> None:
    a = [{"x": 10.0}, {"x": 20.0}, {"x": 30.0}, {"x": 40.0}]
    b = [{"x": 11.0}, {"x": 22.0}, {"x": 33.0}, {"x": 44.0}]
    (row,) = compare(a, b)
    assert row["ratio"] == pytest.approx(1.1)
    assert row["verdict"] == "differs"


@pytest.mark.parametrize(
    ("b", "verdict"),
    [([1.1, 1.2, 0.99, 1.3], "noise"), ([1.1, 1.2, 1.3], "too few rounds to tell"), ([0.8, 0.9, 0.8, 0.7], "differs")],
)
def test_a_difference_needs_every_round_on_one_side_and_enough_of_them(b: list[float], verdict: str) -> None:
    (row,) = compare([{"x": 1.0}] * len(b), [{"x": rate} for rate in b])
    assert row["verdict"] == verdict


def test_only_what_both_sides_measured_is_compared() -> None:
    assert [row["row"] for row in compare([{"x": 1.0, "y": 1.0}], [{"x": 1.0, "z": 1.0}])] == ["x"]

"""`tritserve bench`: the arithmetic of a row."""

import pytest

from tritserve.cli.bench_report import Head, Peak, Sample, Shape, Work, Zeros, row

SHAPE = Shape(ternary_weights=1000, head_weights=100, body_bytes=250, kv_bytes_per_token=0)
BOTH_PLANES = Head(bytes_per_row=200, planes_per_row=2.0, finished_per_row=0.0, undecided_share=0.0)
SCREENED = Head(bytes_per_row=110, planes_per_row=1.0, finished_per_row=3.0, undecided_share=0.25)


def test_decode_limited_by_memory_reports_the_share_of_read_bandwidth() -> None:
    samples = [Sample(10, 1.0, 2.0), Sample(10, 2.0, 2.0), Sample(10, 0.5, 2.0)]
    peak = Peak(read_bytes_per_second=9000, int8_ops_per_second=1e9)
    found = row(Work("decode", 1, 64, 2, "avx2"), samples, 30, SHAPE, peak, Zeros(0.25, 0.5, 50.0), SCREENED)
    assert found == {
        "work": "decode",
        "batch": 1,
        "context": 64,
        "threads": 2,
        "isa": "avx2",
        "tokens_per_second": {"median": 10.0, "min": 5.0, "max": 20.0},
        "bytes_per_token": 30 * (250 - 50) // 30 + 110,
        "head_bytes_per_token": 110,
        "head_finished_per_row": 3.0,
        "head_undecided_share": 0.25,
        "ops_per_token": 2 * (1000 + 2 * 100),
        "zero_share": 0.25,
        "closed_gates_share": 0.5,
        "cpu_seconds_per_1000_tokens": 200.0,
        "memory_share": 0.3444,
        "compute_share": 0.0,
        "share_of_limit": 0.3444,
        "limit": "memory",
    }


def test_a_batch_shares_the_weights_but_not_the_arithmetic() -> None:
    peak = Peak(read_bytes_per_second=1e9, int8_ops_per_second=2 * (1000 + 200) * 20)
    head = Head(bytes_per_row=11, planes_per_row=1.0, finished_per_row=3.0, undecided_share=0.0)
    found = row(Work("decode", 10, 64, 2, "avx2"), [Sample(10, 1.0, 1.0)], 1, SHAPE, peak, Zeros(0.0, 0.0, 0.0), head)
    assert found["bytes_per_token"] == 25 + 11
    assert (found["share_of_limit"], found["limit"]) == (0.5, "compute")


def test_prefill_computes_the_head_once() -> None:
    peak = Peak(read_bytes_per_second=1e9, int8_ops_per_second=2 * (100 * 1000 + 400))
    found = row(
        Work("prefill", 1, 100, 2, "avx2"), [Sample(100, 1.0, 1.0)], 2, SHAPE, peak, Zeros(0.0, 0.0, 0.0), BOTH_PLANES
    )
    assert found["share_of_limit"] == pytest.approx(1.0)
    assert found["bytes_per_token"] == round((2 * 250 + 200) / 100)

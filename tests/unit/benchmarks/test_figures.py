"""README's figures are those of the committed report."""

import json

from benchmarks.figures import README, REPORT, with_table
from benchmarks.roofline import point, roofs


def test_readme_shows_the_committed_figures() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_table(readme, json.loads(REPORT.read_text(encoding="utf-8"))) == readme


def test_a_point_of_the_roofline_is_what_the_model_asks_for_per_byte_read() -> None:
    report = {
        "ternary_weights": 800,
        "head_weights": 200,
        "kv_bytes_per_token": 2,
        "threads": 2,
        "tritserve": {"isa": "avx2"},
        "engines": {"tritserve": {"weights_bytes": 400}},
        "limits": {
            "read_bytes_per_second": {"2": {"median": 1000.0}},
            "int8_ops_per_second": {"avx2": {"2": {"median": 9000.0}}},
        },
    }
    row = {"engine": "tritserve", "context": 50, "tokens_per_second": {"median": 1.5}}
    assert roofs(report) == (1000.0, 9000.0)
    decode = point(report, {**row, "work": "decode", "batch": 1})
    assert (decode.intensity, decode.speed) == (4.0, 3000.0)  # 2,000 operations, 400 + 50 * 2 bytes
    assert decode.share == 0.75  # of 4 operations a byte at 1,000 bytes a second
    prefill = point(report, {**row, "work": "prefill", "batch": 1})
    assert (prefill.intensity, prefill.speed) == (160.8, 2412.0)  # 1,608 operations, 400 / 50 + 2 bytes
    assert prefill.share == 2412.0 / 9000.0

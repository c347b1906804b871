"""The comparison with other engines: pairing of turns, and what the table says."""

import pytest
from benchmarks.rivals.report import rows_of, table

from tritserve.cli.bench_report import Sample


def test_ratios_pair_the_turns_of_the_same_round() -> None:
    turns = {
        "tritserve": [Sample(10, 1.0, 2.0), Sample(10, 2.0, 4.0)],  # the machine slowed down by half between the rounds
        "rival": [Sample(10, 2.0, 4.0), Sample(10, 4.0, 8.0)],
    }
    ours, theirs = rows_of("decode", 1, 512, turns, "tritserve")
    assert "ours_over_theirs" not in ours
    assert theirs["ours_over_theirs"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert ours["tokens_per_second"] == {"median": 7.5, "min": 5.0, "max": 10.0}
    assert theirs["cpu_seconds_per_1000_tokens"] == 600.0


def test_an_engine_that_cannot_tell_its_cpu_time_has_none() -> None:
    turns = {"tritserve": [Sample(10, 1.0, 2.0)], "other": [Sample(10, 2.0, float("nan"))]}
    rows = rows_of("prefill", 1, 512, turns, "tritserve")
    assert rows[1]["cpu_seconds_per_1000_tokens"] is None
    assert table({"rows": rows}).splitlines()[-1].endswith("| 2.00x (2.00 .. 2.00) |  |")


def test_a_turn_that_only_one_engine_took_is_an_error_not_a_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        rows_of("decode", 1, 512, {"tritserve": [Sample(1, 1.0, 1.0)] * 2, "rival": [Sample(1, 1.0, 1.0)]}, "tritserve")

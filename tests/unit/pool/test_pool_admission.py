"""Bounds, fair shares, and when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.errors import Overloaded
from tritserve.pool.admission import Admission, FairClock, Throughput
from tritserve.protocol import StepStats


def stats(seconds: float, rows: int) -> StepStats:
    return StepStats(seconds, rows, 0, 0, 0, 0, 0, 0)


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4)))
def test_no_interleaving_exceeds_a_bound_or_loses_a_share(requests: list[list[int]]) -> None:
    admission = Admission(queue_limit=6, max_tokens_in_flight=120)
    held: list[int] = []
    for tokens in requests:
        try:
            admission.admit(tokens, 10.0, 0.0)
            held += tokens
        except Overloaded:
            if held:
                admission.release(held.pop())
        assert admission.num_choices == len(held) <= 6
        assert admission.num_tokens == sum(held) <= 120


@given(st.floats(0.001, 1e6), st.floats(0, 0.999))
def test_retry_after_is_what_the_work_ahead_takes_spread_by_half(rate: float, jitter: float) -> None:
    admission = Admission(queue_limit=1, max_tokens_in_flight=10_000)
    admission.admit([5000], rate, jitter)
    with pytest.raises(Overloaded) as refused:
        admission.admit([100], rate, jitter)
    expected = max(1.0, 5000 / max(rate, 1e-3))
    assert expected <= refused.value.retry_after_seconds * (1 + 1e-9)
    assert refused.value.retry_after_seconds <= 1.5 * expected
    assert refused.value.reason == "queue_full"


def test_throughput_follows_busy_time_only() -> None:
    throughput = Throughput()
    throughput.add(stats(0.0, 0))
    assert throughput.tokens_per_second == 20.0
    throughput.add(stats(0.1, 10))
    assert throughput.tokens_per_second == pytest.approx(100.0)
    for _ in range(1000):
        throughput.add(stats(0.1, 5))
    assert throughput.tokens_per_second == pytest.approx(50.0, rel=1e-3)


def test_one_key_is_served_in_arrival_order() -> None:
    clock = FairClock()
    stamps = [clock.stamp("a", 10) for _ in range(5)]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 5


def test_a_key_that_asks_for_much_falls_behind_one_that_asks_for_little() -> None:
    clock = FairClock()
    greedy = [clock.stamp("greedy", 100) for _ in range(10)]
    modest = clock.stamp("modest", 100)
    assert sum(stamp < modest for stamp in greedy) == 0
    assert sum(stamp <= modest for stamp in greedy) == 1


def test_an_idle_key_saves_nothing_up() -> None:
    clock = FairClock()
    busy = [clock.stamp("busy", 100) for _ in range(10)]
    clock.advance(busy[7])
    assert clock.stamp("back", 10) == busy[7]

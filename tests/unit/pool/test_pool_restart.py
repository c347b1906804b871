"""Restarts and the watchdog on a fake clock."""

from __future__ import annotations

from math import inf

import pytest

from tritserve.pool.restart import Action, RestartPolicy, Timing, Watchdog

TIMING = Timing(start_seconds=100, ping_interval_seconds=5, pong_seconds=30, restarts_per_minute=5)


def test_first_restart_is_immediate_and_the_next_ones_back_off() -> None:
    policy = RestartPolicy(Timing(restarts_per_minute=100))
    delays = []
    for now in range(12):
        policy.worker_died(float(now), was_up=True)
        delays.append(policy.delay(float(now)))
    assert delays[:4] == [0.0, 0.1, 0.2, 0.4]
    assert delays[-1] == 10.0
    policy.step_done()
    policy.worker_died(20.0, was_up=True)
    assert policy.delay(20.0) == 0.0


def test_past_the_cap_it_waits_until_the_minute_is_over() -> None:
    policy = RestartPolicy(TIMING)
    policy.worker_up()
    for now in range(6):
        policy.worker_died(float(now), was_up=True)
    assert policy.delay(5.0) == pytest.approx(1.0 + 60.0 - 5.0)
    assert policy.is_flapping
    assert policy.delay(61.5) < 10.0
    assert not policy.is_flapping


def test_lives_that_finished_a_step_are_never_made_to_rest() -> None:
    policy = RestartPolicy(TIMING)
    policy.worker_up()
    for death in range(100):
        policy.step_done()
        policy.worker_died(0.01 * death, was_up=True)
        assert policy.delay(0.01 * death) == 0.0
        assert not policy.is_flapping


def test_only_a_worker_that_never_came_up_is_hopeless() -> None:
    policy = RestartPolicy(TIMING)
    for _ in range(3):
        assert not policy.is_hopeless
        policy.worker_died(0.0, was_up=False)
    assert policy.is_hopeless
    policy.worker_up()
    assert not policy.is_hopeless


def test_start_takes_at_most_its_time() -> None:
    watchdog = Watchdog(TIMING, 0.0)
    assert watchdog.check(99.0) is Action.NOTHING
    assert watchdog.check(100.0) is Action.KILL
    assert watchdog.next_check == inf


def test_idle_worker_is_asked_once_and_killed_if_it_does_not_answer() -> None:
    watchdog = Watchdog(TIMING, 0.0)
    watchdog.up(1.0, 0.1, 256)
    assert watchdog.next_check == 6.0
    assert watchdog.check(6.0) is Action.PING
    assert watchdog.check(7.0) is Action.NOTHING
    watchdog.idle(8.0)
    assert watchdog.check(13.0) is Action.PING
    assert watchdog.check(43.0) is Action.KILL


def test_a_step_may_take_long_in_proportion_to_the_self_test() -> None:
    watchdog = Watchdog(TIMING, 0.0)
    watchdog.up(0.0, 2.0, 256)  # 8 rows took 2 s: 256 take 64, twenty times that is allowed
    watchdog.step_started(10.0)
    assert watchdog.check(10.0 + 1279.0) is Action.NOTHING
    assert watchdog.check(10.0 + 1280.0) is Action.KILL


def test_a_finished_step_ends_its_deadline() -> None:
    watchdog = Watchdog(Timing(step_seconds=1.0, ping_interval_seconds=5), 0.0)
    watchdog.up(0.0, 0.0, 16)
    watchdog.step_started(0.0)
    watchdog.idle(0.5)
    assert watchdog.check(2.0) is Action.NOTHING

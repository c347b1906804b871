"""Whom a death is blamed on, and what is submitted again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritserve.pool.journal import POISON_SECONDS, Entry, PoisonList, Verdict
from tritserve.protocol import SamplingParams, Submit

STEP = range(0, 3)


def entry(**fields: object) -> Entry:
    return Entry(Submit(seq_id=1, group=1, prompt=[1, 2, 3], sampling=SamplingParams(seed=1), max_tokens=9, **fields))  # type: ignore[arg-type]


def test_the_third_death_in_a_row_while_alone_fails() -> None:
    poison = entry()
    assert poison.record_death(STEP) is Verdict.RESUME
    assert poison.record_death(STEP) is Verdict.RESUME_ALONE
    assert poison.resubmit().alone
    assert poison.record_death(STEP) is Verdict.FAIL


def test_poison_in_the_middle_of_an_answer_fails_at_the_third_death_too() -> None:
    poison = entry()
    poison.record_token(4)
    verdicts = [poison.record_death(STEP) for _ in range(3)]
    assert verdicts == [Verdict.RESUME, Verdict.RESUME_ALONE, Verdict.FAIL]


def test_deaths_outside_its_steps_do_not_count() -> None:
    bystander = entry()
    assert {bystander.record_death(None) for _ in range(50)} == {Verdict.RESUME}


def test_a_token_between_deaths_proves_innocence() -> None:
    neighbour = entry()
    for token in range(50):
        assert neighbour.record_death(STEP) is Verdict.RESUME
        neighbour.record_token(token)


def test_a_prompt_that_gets_further_with_every_life_is_not_blamed() -> None:
    long = entry()
    for start in range(0, 4096, 64):
        assert long.record_death(range(start, start + 64)) is Verdict.RESUME
    long.record_token(1)
    for start in range(0, 4096, 64):
        assert long.record_death(range(start, start + 64)) is Verdict.RESUME
        assert long.record_death(range(start, start + 64)) is Verdict.RESUME  # one life without progress


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 201)), min_size=3, max_size=3))
def test_a_token_that_kills_fails_at_the_third_death_however_its_prompt_is_cut(
    fatal: int, cuts: list[tuple[int, int]]
) -> None:
    poison = entry()
    steps = [range(max(0, fatal - before), fatal + after) for before, after in cuts]
    assert [poison.record_death(step) for step in steps] == [Verdict.RESUME, Verdict.RESUME_ALONE, Verdict.FAIL]


def test_a_suspect_that_gets_further_stays_alone_and_fails_where_it_is_stuck() -> None:
    poison = entry()
    starts = (0, 0, 64, 128, 128, 128, 128)
    verdicts = [poison.record_death(range(start, start + 64)) for start in starts]
    assert verdicts == [Verdict.RESUME, *[Verdict.RESUME_ALONE] * 5, Verdict.FAIL]


def test_recomputing_earlier_tokens_is_no_step_back_after_a_token() -> None:
    neighbour = entry()
    neighbour.record_death(range(100, 101))
    neighbour.record_token(1)
    assert neighbour.record_death(range(64)) is Verdict.RESUME
    assert neighbour.num_counted_deaths == 0


def test_a_suspect_that_gets_a_token_alone_is_free_again() -> None:
    neighbour = entry()
    neighbour.record_death(STEP)
    neighbour.record_death(STEP)
    neighbour.record_token(5)
    assert not neighbour.resubmit().alone
    assert neighbour.record_death(STEP) is Verdict.RESUME


def test_a_waiting_suspect_is_not_blamed_for_anothers_turn() -> None:
    waiting = entry()
    waiting.record_death(STEP)
    waiting.record_death(STEP)
    assert {waiting.record_death(None) for _ in range(5)} == {Verdict.RESUME_ALONE}


def test_resubmission_carries_the_tokens_and_asks_for_missing_scores_only() -> None:
    scored = entry(prompt_logprobs=2)
    assert scored.resubmit().prompt_logprobs == 2
    scored.num_scored = 2
    scored.record_token(7)
    again = scored.resubmit()
    assert (again.forced, again.prompt_logprobs, again.seq_id) == ([7], -1, 1)


def test_poison_is_refused_for_a_minute() -> None:
    poison = PoisonList()
    assert not poison.refuses([1, 2], 0.0)
    poison.add([1, 2], 10.0)
    assert poison.refuses([1, 2], 10.0 + POISON_SECONDS - 1)
    assert not poison.refuses([1, 3], 11.0)
    assert not poison.refuses([1, 2], 10.0 + POISON_SECONDS)

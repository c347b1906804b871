"""What the engine promises, on a fake model whose answers depend on every cached cell."""

from __future__ import annotations

import pytest
from engine_driver import Driver, prompt_of
from fake_runner import EOS, FAULT, model_completion

from tritserve.protocol import EndEvent, SamplingParams


def test_tokens_are_those_of_the_sequence_running_alone() -> None:
    driver = Driver()
    for seq_id in range(6):
        driver.submit(seq_id, prompt_of(5 + 13 * seq_id, seq_id), max_tokens=20)
    driver.run()
    for seq_id in range(6):
        assert driver.tokens[seq_id] == model_completion(prompt_of(5 + 13 * seq_id, seq_id), 1, 20)
        assert driver.finish[seq_id] == "length"


def test_equal_prefix_is_computed_once_and_at_least_the_last_token_again() -> None:
    driver = Driver()
    driver.submit(0, prompt_of(64))
    driver.run()
    rows_before = driver.runner.num_rows
    driver.submit(1, prompt_of(64))
    driver.step()
    assert driver.cached == {0: 0, 1: 48}
    assert driver.runner.num_rows - rows_before == 16
    driver.run()
    assert driver.tokens[0] == driver.tokens[1]


def test_other_salt_never_hits() -> None:
    driver = Driver()
    driver.submit(0, prompt_of(64), cache_salt=b"a")
    driver.run()
    driver.submit(1, prompt_of(64), cache_salt=b"b")
    driver.run()
    assert driver.cached[1] == 0


def test_a_block_is_hit_only_after_it_is_full_and_computed() -> None:
    driver = Driver(step_tokens=16, batch=4)
    driver.submit(0, prompt_of(40))
    driver.submit(1, prompt_of(40))
    driver.step()  # both wait for nothing: 0 takes the whole budget
    driver.step()
    driver.run()
    assert driver.tokens[0] == driver.tokens[1] == model_completion(prompt_of(40), 1, 8)


def test_later_choices_wait_for_the_first_ones_prefill_and_hit_its_blocks() -> None:
    driver = Driver(step_tokens=32)
    for seq_id in range(3):
        driver.submit(seq_id, prompt_of(80), group=9, sampling=SamplingParams(seed=seq_id))
    driver.step()
    driver.step()
    driver.step()
    assert [set(ids) for ids in driver.started] == [{0}, {0}, {0}]
    driver.run()
    assert driver.cached == {0: 0, 1: 64, 2: 64}
    for seq_id in range(3):
        assert driver.tokens[seq_id] == model_completion(prompt_of(80), seq_id, 8)


def test_decode_rows_come_first_and_a_long_prompt_is_cut_into_chunks() -> None:
    driver = Driver(step_tokens=32)
    driver.submit(0, prompt_of(10), max_tokens=30)
    driver.step()
    driver.submit(1, prompt_of(100, 5))
    done = driver.step()
    assert (done.stats.num_decode_rows, done.stats.num_prefill_rows) == (1, 31)
    assert len(driver.tokens[0]) == 2
    driver.run()
    assert driver.tokens[1] == model_completion(prompt_of(100, 5), 1, 8)


def test_preempted_sequence_resumes_with_identical_tokens() -> None:
    driver = Driver(num_blocks=8, max_model_len=128)
    for seq_id in range(3):
        driver.submit(seq_id, prompt_of(20, seq_id), max_tokens=60)
    driver.run()
    for seq_id in range(3):
        assert driver.tokens[seq_id] == model_completion(prompt_of(20, seq_id), 1, 60)


def test_waiting_sequences_are_admitted_by_priority_then_arrival() -> None:
    driver = Driver(batch=1)
    driver.submit(0, prompt_of(4), max_tokens=1)
    driver.submit(1, prompt_of(4), max_tokens=1)
    driver.submit(2, prompt_of(4), max_tokens=1, priority=5)
    driver.run()
    assert driver.started == [[2], [0], [1]]


def test_stop_token_is_the_last_event_and_min_tokens_forbids_it_before() -> None:
    prompt = prompt_of(6)
    answer = model_completion(prompt, 1, 10)
    driver = Driver()
    driver.submit(0, prompt, max_tokens=10, stop_token_ids=[answer[3]])
    driver.submit(1, prompt, max_tokens=10, stop_token_ids=[answer[3]], min_tokens=6)
    driver.run()
    assert driver.tokens[0] == answer[:4]
    assert driver.finish[0] == "stop"
    assert driver.finish[1] == "length"


def test_forced_tokens_count_as_completion_and_generation_goes_on_behind_them() -> None:
    prompt = prompt_of(30)
    answer = model_completion(prompt, 1, 12)
    driver = Driver()
    driver.tokens[0] = answer[:5]
    driver.submit(0, prompt, max_tokens=12, forced=answer[:5])
    driver.run()
    assert driver.tokens[0] == answer


@pytest.mark.parametrize(
    ("fields", "finish"),
    [
        ({"max_tokens": 3, "forced": [1, 2, 3]}, "length"),
        ({"prompt": prompt_of(512)}, "length"),
        ({"prompt": [1, 5000]}, "rejected"),
        ({"prompt": [-1]}, "rejected"),
        ({"prompt": []}, "rejected"),
        ({"sampling": SamplingParams(seed=1, temperature=float("nan"))}, "rejected"),
        ({"sampling": SamplingParams(seed=1, allowed_token_ids=[1000])}, "rejected"),
        ({"sampling": SamplingParams(seed=1, logit_bias={-3: 1.0})}, "rejected"),
        ({"max_tokens": 0}, "rejected"),
    ],
)
def test_what_cannot_run_ends_at_once(fields: dict[str, object], finish: str) -> None:
    driver = Driver()
    driver.submit(0, **{"prompt": [1, 2], **fields})  # type: ignore[arg-type]
    assert driver.step().ends == [EndEvent(0, finish)]  # type: ignore[arg-type]
    assert not driver.core.has_work


def test_context_end_finishes_with_length() -> None:
    driver = Driver(max_model_len=40)
    driver.submit(0, prompt_of(30), max_tokens=100)
    driver.run()
    assert len(driver.tokens[0]) == 10
    assert driver.finish[0] == "length"


def test_a_pool_smaller_than_the_context_lowers_the_context() -> None:
    driver = Driver(num_blocks=3, max_model_len=512)
    driver.submit(0, prompt_of(30), max_tokens=100)
    driver.run()
    assert driver.core.max_model_len == 48
    assert len(driver.tokens[0]) == 18


def test_abort_frees_the_blocks_before_the_next_step() -> None:
    driver = Driver()
    driver.submit(0, prompt_of(60))
    driver.submit(1, prompt_of(60, 3))
    driver.step()
    driver.core.abort([0, 1, 77])
    assert driver.core.blocks.num_used == 0
    driver.run()
    assert driver.finish == {0: "cancelled", 1: "cancelled"}


def test_a_fault_ends_that_sequence_alone() -> None:
    driver = Driver()
    driver.submit(0, [1, 2, FAULT])
    driver.submit(1, [1, 2, 3])
    driver.run()
    assert driver.finish == {0: "numeric_fault", 1: "length"}
    assert driver.tokens[1] == model_completion([1, 2, 3], 1, 8)


def test_prompt_logprobs_score_every_prompt_token_once_and_ignore_the_cache() -> None:
    driver = Driver()
    prompt = prompt_of(90)
    driver.submit(0, prompt)
    driver.run()
    driver.submit(1, prompt, prompt_logprobs=2)
    driver.submit(2, prompt, max_tokens=0, prompt_logprobs=0)
    driver.run()
    for seq_id, num_top in ((1, 2), (2, 0)):
        pieces = [piece for piece in driver.scores if piece.seq_id == seq_id]
        entries = [entry for piece in pieces for entry in piece.entries]
        assert [piece.start for piece in pieces] == [
            1 + sum(len(p.entries) for p in pieces[:i]) for i in range(len(pieces))
        ]
        assert [entry.token for entry in entries] == prompt[1:]
        assert {len(entry.top) for entry in entries} == {num_top}
    assert driver.tokens[1] == driver.tokens[0]
    assert driver.finish[2] == "length"
    assert driver.tokens[2] == []


def test_a_suspect_shares_no_step_until_its_first_token_and_others_go_on() -> None:
    driver = Driver(step_tokens=16, batch=4)
    driver.submit(0, prompt_of(10), max_tokens=20)
    driver.step()
    driver.submit(1, prompt_of(40, 1), alone=True)
    driver.submit(2, prompt_of(40, 2), alone=True)
    while not (driver.tokens[1] and driver.tokens[2]):
        driver.step()
        suspects = {seq_id for seq_id in (1, 2) if len(driver.tokens[seq_id]) == 0} & set(driver.started[-1])
        assert not suspects or len(driver.started[-1]) == 1
    assert len(driver.tokens[0]) > 4
    driver.run()
    assert driver.tokens[2] == model_completion(prompt_of(40, 2), 1, 8)


def test_adopted_blocks_are_hit_and_others_lose_their_seal() -> None:
    first = Driver()
    first.submit(0, prompt_of(64), max_tokens=20)
    first.run()
    second = Driver()
    second.runner.blocks[:] = first.runner.blocks
    twin = next(iter(first.runner.surviving_blocks().items()))
    second.runner.commit(60, twin[1])  # the same content twice: one of them is given up
    assert second.core.adopt_blocks() == len(first.runner.surviving_blocks())
    second.core.self_test()
    second.submit(1, prompt_of(64), max_tokens=20)
    second.run()
    assert second.cached[1] == 48
    assert second.tokens[1] == first.tokens[0]
    assert EOS not in second.tokens[1]

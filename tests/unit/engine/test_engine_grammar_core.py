"""Sequences with grammars in the engine: held until compiled, masked beside the step, ended with the right reason."""

from __future__ import annotations

import json
import re
import select
from typing import TYPE_CHECKING

import pytest
from engine_driver import Driver, prompt_of
from fake_runner import FIRST_BYTE, FakeRunner, model_completion, text_of
from llguidance import LLParserLimits

from tritserve.engine import grammar
from tritserve.engine.grammar_threads import GrammarThreads
from tritserve.protocol import MAX_GRAMMAR_BYTES, Grammar, GrammarDone, GrammarStarted, SamplingParams, Submit

if TYPE_CHECKING:
    from tritserve.vocabulary import Vocabulary

END = 5
WORDS = Grammar("regex", "(yes|no|perhaps [a-z]{3})")


class GrammarDriver(Driver):
    """Waits for grammars where there is nothing else to do."""

    def run(self) -> None:
        while self.core._held or self.core.has_work or self.core.has_news:
            if not (self.core.has_work or self.core.has_news):
                assert select.select([self.core.grammars.wake_fd], [], [], 30)[0]
            self.core.release_compiled()
            if self.core.has_work or self.core.has_news:
                self.step()
        assert self.core.blocks.num_used == 0

    def text(self, seq_id: int) -> str:
        return text_of(self.tokens[seq_id]).decode()


def test_only_what_conforms_is_chosen_and_the_end_where_it_is_complete() -> None:
    driver = GrammarDriver()
    for seq_id in range(8):
        driver.submit(seq_id, prompt_of(20, seq_id), 40, grammar=WORDS, stop_token_ids=[END])
    driver.run()
    for seq_id in range(8):
        assert re.fullmatch(WORDS.source, driver.text(seq_id))
        assert driver.finish[seq_id] == "stop"
        assert driver.tokens[seq_id][-1] == END


def test_sequences_without_a_grammar_do_not_notice() -> None:
    driver = GrammarDriver()
    driver.submit(0, prompt_of(30), 20)
    driver.submit(1, prompt_of(30, 1), 20, grammar=WORDS, stop_token_ids=[END])
    driver.run()
    assert driver.tokens[0] == model_completion(prompt_of(30), 1, 20)


def test_the_step_does_not_wait_for_a_grammar_that_is_being_compiled() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(30), 8, grammar=WORDS, stop_token_ids=[END])
    driver.submit(2, prompt_of(30, 1), 8)
    while driver.core.has_work or driver.core.has_news:
        done = driver.step()  # nobody releases what is compiled
        assert done.stats.num_waiting == 1
    assert driver.finish == {2: "length"}
    assert all(seq_ids == [2] for seq_ids in driver.started)
    driver.run()
    assert driver.finish[1] == "stop"


def test_a_sequence_can_be_aborted_while_its_grammar_is_compiled() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(30), 8, grammar=WORDS, stop_token_ids=[END])
    driver.core.abort([1])
    driver.run()
    assert driver.finish == {1: "cancelled"}
    driver.submit(2, prompt_of(30), 8, grammar=WORDS, stop_token_ids=[END])
    driver.run()  # what was compiled for the first one is dropped
    assert driver.finish == {1: "cancelled", 2: "stop"}


@pytest.mark.parametrize("source", ["[a-z]{12}", "a{3}b{9}", "(xy|z){1,6}"])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_resumed_tokens_are_those_of_the_whole_run(source: str, cut: int) -> None:
    letters = Grammar("regex", source)
    whole = GrammarDriver()
    whole.submit(1, prompt_of(40), 20, grammar=letters, stop_token_ids=[END])
    whole.run()
    resumed = GrammarDriver()
    forced = whole.tokens[1][:cut]
    resumed.tokens[1] = list(forced)
    resumed.submit(1, prompt_of(40), 20, grammar=letters, stop_token_ids=[END], forced=forced)
    resumed.run()
    assert resumed.tokens == whole.tokens
    assert resumed.finish == whole.finish


def test_tokens_that_the_grammar_cannot_have_allowed_end_the_sequence() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 20, grammar=Grammar("regex", "a+"), forced=[FIRST_BYTE + ord("b")])
    driver.run()
    assert driver.finish == {1: "grammar_too_complex"}


def test_a_grammar_that_does_not_compile_ends_its_sequence_only() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 8, grammar=Grammar("regex", "((("))
    driver.submit(2, prompt_of(20, 1), 8)
    driver.run()
    assert driver.finish == {1: "grammar_too_complex", 2: "length"}


def test_a_grammar_that_meets_a_limit_on_its_way_ends_its_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_LIMITS", LLParserLimits(max_lexer_states=300))
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 400, grammar=Grammar("regex", "(.*a.{200}b.*){5}"))
    driver.submit(2, prompt_of(20, 1), 8, grammar=WORDS, stop_token_ids=[END])
    driver.run()
    assert driver.finish == {1: "grammar_too_complex", 2: "stop"}


def test_where_nothing_that_is_allowed_conforms_the_request_fails_and_does_not_answer() -> None:
    driver = GrammarDriver()
    only_a = SamplingParams(seed=1, allowed_token_ids=[FIRST_BYTE + ord("a"), END])
    driver.submit(1, prompt_of(20), 8, grammar=Grammar("regex", "aab"), sampling=only_a, stop_token_ids=[END])
    driver.submit(2, prompt_of(20), 8, grammar=Grammar("regex", "aaa"), sampling=only_a, stop_token_ids=[END])
    driver.run()
    assert driver.finish == {1: "grammar_dead_end", 2: "stop"}
    assert driver.text(2) == "aaa"


def test_without_end_tokens_a_complete_text_ends_when_nothing_can_follow() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 8, grammar=Grammar("regex", "abc"))
    driver.submit(2, prompt_of(20), 20, min_tokens=9, grammar=Grammar("regex", "abc"), stop_token_ids=[END])
    driver.run()
    assert driver.finish == {1: "no_token", 2: "no_token"}
    assert driver.text(1) == driver.text(2) == "abc"


def test_min_tokens_hold_back_the_end_where_the_grammar_can_go_on() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 40, min_tokens=12, grammar=Grammar("regex", "a*"), stop_token_ids=[END])
    driver.run()
    assert len(driver.text(1)) >= 12


def test_length_is_the_one_way_to_be_cut() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 5, grammar=Grammar("regex", "a{10}"), stop_token_ids=[END])
    driver.run()
    assert (driver.finish[1], driver.text(1)) == ("length", "aaaaa")


def test_every_mask_is_timed() -> None:
    driver = GrammarDriver()
    driver.submit(1, prompt_of(20), 8, grammar=Grammar("regex", "abc"), stop_token_ids=[END])
    seconds: list[float] = []
    while driver.core._held or driver.core.has_work:
        driver.core.release_compiled()
        if driver.core.has_work:
            seconds += driver.step().stats.mask_seconds
    assert len(seconds) == 4
    assert all(0 < value < 1 for value in seconds)


def test_a_grammar_is_announced_compiled_once_and_then_found_in_the_cache() -> None:
    messages: list[GrammarStarted | GrammarDone] = []
    driver = GrammarDriver()
    driver.core.grammars.report = messages.append
    for seq_id in (1, 2):
        driver.submit(seq_id, prompt_of(20), 8, grammar=WORDS, stop_token_ids=[END])
        driver.run()
    assert [type(message) for message in messages] == [GrammarStarted, GrammarDone] * 2
    assert [message.seq_id for message in messages] == [1, 1, 2, 2]
    done = [message for message in messages if isinstance(message, GrammarDone)]
    assert done[0].seconds is not None
    assert done[1].seconds is None


def test_a_worker_without_grammars_has_no_threads_for_them_and_reads_no_vocabulary() -> None:
    def never() -> Vocabulary:
        raise AssertionError("read without need")

    threads = GrammarThreads(never)
    assert threads.take_compiled() == []
    assert not threads._threads


def test_a_grammar_past_the_bound_is_rejected_unread() -> None:
    driver = Driver()
    driver.submit(1, prompt_of(20), 8, grammar=Grammar("regex", "a" * (MAX_GRAMMAR_BYTES + 1)))
    driver.run()
    assert driver.finish == {1: "rejected"}


def test_ten_thousand_grammars_are_not_all_kept() -> None:
    threads = GrammarThreads(FakeRunner(4).read_vocabulary)
    for number in range(10_000):
        submit = Submit(
            seq_id=number,
            group=1,
            prompt=[1],
            sampling=SamplingParams(seed=1),
            max_tokens=1,
            grammar=Grammar("json_schema", json.dumps({"const": number})),
        )
        if number < 300:
            threads._compile(submit, None)
        elif submit.grammar is not None:
            threads._cache.add(submit.grammar, threads._cache.find(Grammar("json_schema", '{"const": 299}')))  # type: ignore[arg-type]
    assert len(threads._cache) < 300

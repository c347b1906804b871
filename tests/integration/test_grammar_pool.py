"""Grammars over real processes: tried out within limits, compiled in workers, and kept to across a worker's death."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import fake_checker
import pytest
from fake_runner import text_of
from pool_harness import Killer, read_all, request_of, running_pool

from tritserve.errors import GrammarFailed, Overloaded
from tritserve.pool import grammar_checker
from tritserve.pool.grammar_checker import GrammarChecker
from tritserve.pool.journal import GRAMMAR_TOKENS, Entry, Verdict
from tritserve.protocol import Grammar, SamplingParams, Submit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (sys.executable, fake_checker.__file__)
GOOD = Grammar("regex", "[a-f]{30}")
END = 5


@asynccontextmanager
async def checking(max_seconds: float = 0.2) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(Path("/nowhere"), max_seconds, COMMAND)
    try:
        yield checker
    finally:
        await checker.close()


async def test_a_verdict_is_found_once_and_then_known() -> None:
    async with checking() as checker:
        assert await checker.check(GOOD) == (None, False)
        assert await checker.check(GOOD) == (None, True)
        bad = Grammar("regex", "(((")
        refusal, _ = await checker.check(bad)
        assert refusal is not None
        assert "invalid regex" in refusal
        assert await checker.check(bad) == (refusal, True)


@pytest.mark.parametrize("source", ["spin", "crash", "hog"])
async def test_a_grammar_that_costs_too_much_is_refused_and_the_next_one_is_not(source: str) -> None:
    async with checking() as checker:
        refusal, _ = await checker.check(Grammar("lark", source))
        assert refusal is not None
        assert refusal.startswith("compiling it takes more")
        assert ("0.2 s" in refusal) == (source == "spin")
        assert await checker.check(GOOD) == (None, False)


async def test_one_process_serves_them_all_and_ends_with_the_checker() -> None:
    async with checking() as checker:
        pid, _ = await checker.check(Grammar("lark", "pid"))
        assert pid is not None
        assert (await checker.check(GOOD))[0] is None
        os.kill(int(pid), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_who_waits_too_long_in_line_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_checker, "MAX_WAITING", 2)
    async with checking() as checker:
        several = [asyncio.create_task(checker.check(Grammar("regex", f"a{number}"))) for number in range(3)]
        results = await asyncio.gather(*several, return_exceptions=True)
        assert [type(result) for result in results] == [tuple, tuple, Overloaded]


async def test_who_leaves_while_waiting_disturbs_nobody() -> None:
    async with checking() as checker:
        leaving = asyncio.create_task(checker.check(Grammar("lark", "spin")))
        staying = asyncio.create_task(checker.check(GOOD))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == (None, False)


async def test_an_answer_conforms_also_across_kills(tmp_path: Path) -> None:
    requests = [
        request_of([7, 8, 9, number], number, max_tokens=40, grammar=GOOD, stop_token_ids=frozenset({END}))
        for number in range(4)
    ]
    async with running_pool(tmp_path, options={"step_seconds": 0.002}) as (pool, _):
        undisturbed = [await read_all(await pool.submit(request)) for request in requests]
    async with running_pool(tmp_path, options={"step_seconds": 0.002}) as (pool, recorder):
        killer = Killer(pool, 4)

        async def read(number: int) -> dict[int, list[int]]:
            found: dict[int, list[int]] = {0: []}
            async for event in killer.watch(await pool.submit(requests[number])):
                found[0].append(event.token.token)  # type: ignore[union-attr]  # no other events here
            return found

        disturbed = await asyncio.gather(*map(read, range(4)))
        assert recorder.restarts
    assert disturbed == [answer.tokens for answer in undisturbed]
    for answer in undisturbed:
        text = text_of(answer.tokens[0]).decode()
        assert len(text) == 30
        assert set(text) <= set("abcdef")
        assert answer.finish == {0: "stop"}


async def test_an_answer_that_cannot_go_on_fails_with_a_reason(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        request = request_of([1, 2], grammar=Grammar("lark", 'start: "a" <[7]>'))
        with pytest.raises(GrammarFailed) as caught:
            await read_all(await pool.submit(request))
        assert caught.value.code == "grammar_dead_end"


async def test_a_grammar_can_be_aborted_while_it_is_compiled(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        generation = await pool.submit(request_of([1, 2], grammar=GOOD))
        generation.abort()
        after = await read_all(await pool.submit(request_of([1, 2], grammar=GOOD, stop_token_ids=frozenset({END}))))
        assert after.finish == {0: "length"}
        assert pool.status.num_running == pool.status.num_waiting == 0


async def test_a_worker_that_dies_over_a_grammar_three_times_fails_its_request_only() -> None:
    """As for tokens: the third death while it is a suspect is its end; getting past the grammar clears it."""
    submit = Submit(seq_id=1, group=1, prompt=[1], sampling=SamplingParams(seed=1), max_tokens=1, grammar=GOOD)
    entry = Entry(submit)
    assert [entry.record_death(GRAMMAR_TOKENS) for _ in range(3)] == [
        Verdict.RESUME,
        Verdict.RESUME_ALONE,
        Verdict.FAIL,
    ]

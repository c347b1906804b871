"""The pool with real worker processes: only the model is fake."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from fake_runner import CRASH, FAULT, HANG, model_completion
from pool_harness import PATIENT, Answer, Killer, assert_as_alone, read_all, request_of, running_pool

from tritserve.errors import (
    ContextTooLong,
    InvalidRequest,
    NumericFault,
    Overloaded,
    RequestAborted,
    Unavailable,
    WorkerFailed,
)
from tritserve.pool.generation import ChoiceToken
from tritserve.pool.restart import Timing

if TYPE_CHECKING:
    from pathlib import Path

    from tritserve.pool.generation import Generation, GenerationRequest
    from tritserve.pool.process_pool import ProcessPool


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [(7 * i + 31 * salt) % 900 for i in range(length)]


async def test_choices_of_many_requests_get_the_tokens_of_running_alone(tmp_path: Path) -> None:
    requests = [request_of(prompt_of(10 + 9 * i, i), i, i + 100, max_tokens=30) for i in range(6)]
    async with running_pool(tmp_path) as (pool, _):
        answers = await asyncio.gather(*[read_all(await pool.submit(request)) for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            assert_as_alone(answer, request)
            assert answer.finish == {0: "length", 1: "length"}
        assert pool.status.num_running == pool.status.num_waiting == 0


async def test_cached_tokens_are_reported_for_a_repeated_prompt(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        first, second = await pool.submit(request_of(prompt_of(50))), None
        await read_all(first)
        second = await pool.submit(request_of(prompt_of(50)))
        await read_all(second)
        assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 48)


async def test_without_the_prefix_cache_nothing_is_shared_between_requests(tmp_path: Path) -> None:
    async with running_pool(tmp_path, prefix_cache=False) as (pool, _):
        for _ in range(2):
            generation = await pool.submit(request_of(prompt_of(50)))
            await read_all(generation)
            assert generation.num_cached_tokens == 0


async def test_prompt_scores_come_in_order_before_the_first_token(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        request = request_of(prompt_of(150), 1, 2, prompt_logprobs=0)
        answer = await read_all(await pool.submit(request))
        assert answer.scores == request.prompt[1:]
        assert_as_alone(answer, request)
        answer = await read_all(await pool.submit(request_of(prompt_of(150), 1, 2, prompt_logprobs=0, max_tokens=0)))
        assert answer.scores == request.prompt[1:]
        assert answer.finish == {0: "length", 1: "length"}


async def _read_killing(generation: Generation, pool: ProcessPool, kill_after: set[int]) -> Answer:
    answer = Answer()
    async for event in generation:
        answer.take(event)
        if isinstance(event, ChoiceToken) and len(answer.tokens[0]) in kill_after:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
    return answer


async def _read_watched(generation: Generation, killer: Killer) -> Answer:
    answer = Answer()
    async for event in killer.watch(generation):
        answer.take(event)
    return answer


async def _kill_storm(folder: Path, num_kills: int) -> None:
    requests = [request_of(prompt_of(20 + 11 * i, i), i, max_tokens=20 + 3 * num_kills) for i in range(8)]
    async with running_pool(folder, max_batch_size=6) as (pool, recorder):
        killer = Killer(pool, num_kills)
        generations = [await pool.submit(request) for request in requests]
        answers = await asyncio.gather(*[_read_watched(generation, killer) for generation in generations])
        for request, answer in zip(requests, answers, strict=True):
            assert_as_alone(answer, request)
        assert killer.num_left == 0
        assert recorder.restarts == ["crash"] * num_kills


async def test_killed_worker_changes_no_stream(tmp_path: Path) -> None:
    await _kill_storm(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_kills_change_no_stream(tmp_path: Path) -> None:
    await _kill_storm(tmp_path, 100)


async def test_a_long_prompt_is_not_blamed_for_kills_between_its_chunks(tmp_path: Path) -> None:
    requests = [request_of(prompt_of(20, i), i, max_tokens=80) for i in range(4)]
    async with running_pool(tmp_path, max_step_tokens=24) as (pool, recorder):
        killer = Killer(pool, 12, most_tokens=4)
        generations = [await pool.submit(request) for request in requests]
        await anext(generations[0].__aiter__())
        long = request_of(prompt_of(400, 9), max_tokens=5)
        reading = asyncio.create_task(read_all(await pool.submit(long)))
        await asyncio.gather(*[_read_watched(generation, killer) for generation in generations])
        assert_as_alone(await reading, long)
        assert len(recorder.restarts) > 6


async def test_successor_adopts_the_blocks_of_its_predecessor(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        request = request_of(prompt_of(200), max_tokens=60)
        answer = await _read_killing(await pool.submit(request), pool, {30})
        assert_as_alone(answer, request)
        assert recorder.restarts == ["crash"]
        assert recorder.hellos[1].num_adopted_blocks >= 200 // 16


async def test_poison_request_fails_after_three_deaths_and_its_neighbours_do_not(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        requests = [request_of(prompt_of(30, i), i, max_tokens=200) for i in range(4)]
        generations = [await pool.submit(request) for request in requests]
        poison = [*prompt_of(40, 9), CRASH]
        doomed = await pool.submit(request_of(poison))
        with pytest.raises(WorkerFailed):
            await read_all(doomed)
        assert len(recorder.restarts) == 3
        with pytest.raises(WorkerFailed, match="refused"):
            await pool.submit(request_of(poison))
        for request, generation in zip(requests, generations, strict=True):
            assert_as_alone(await read_all(generation), request)
        assert len(recorder.restarts) == 3


async def test_several_poison_requests_at_once_do_not_take_neighbours_with_them(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        requests = [request_of(prompt_of(30, i), i, max_tokens=100) for i in range(4)]
        good = [await pool.submit(request) for request in requests]
        bad = [await pool.submit(request_of([*prompt_of(10, i), CRASH])) for i in range(3)]
        results = await asyncio.gather(*[read_all(generation) for generation in bad], return_exceptions=True)
        assert [type(result) for result in results] == [WorkerFailed] * 3
        for request, generation in zip(requests, good, strict=True):
            assert_as_alone(await read_all(generation), request)


async def test_hung_worker_is_killed_and_its_neighbours_resume(tmp_path: Path) -> None:
    timing = Timing(step_seconds=1.5, restarts_per_minute=1000, first_delay_seconds=0.001)
    async with running_pool(tmp_path, timing=timing) as (pool, recorder):
        request = request_of(prompt_of(30), max_tokens=100)
        generation = await pool.submit(request)
        with pytest.raises(WorkerFailed):
            await read_all(await pool.submit(request_of([5, HANG])))
        assert_as_alone(await read_all(generation), request)
        assert recorder.restarts == ["hang"] * 3


async def test_a_stopped_idle_worker_is_found_by_ping(tmp_path: Path) -> None:
    timing = Timing(ping_interval_seconds=0.05, pong_seconds=1.0, restarts_per_minute=1000)
    async with running_pool(tmp_path, timing=timing) as (pool, recorder):
        os.kill(pool.worker_pids[0], signal.SIGSTOP)
        await recorder.until(lambda: "hang" in recorder.restarts and pool.status.ready)


async def test_fault_fails_its_request_only(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        request = request_of(prompt_of(30), max_tokens=50)
        generation = await pool.submit(request)
        with pytest.raises(NumericFault):
            await read_all(await pool.submit(request_of([5, FAULT], 1, 2)))
        assert_as_alone(await read_all(generation), request)
        assert recorder.faults == 1
        assert recorder.restarts == []


async def test_abort_frees_the_blocks_by_the_next_step(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        generation = await pool.submit(request_of(prompt_of(100), 1, 2, max_tokens=3000))
        await anext(generation.__aiter__())
        assert pool.status.kv_used_bytes > 0
        generation.abort()
        generation.abort()
        assert pool.status.num_running == pool.status.num_waiting == 0
        await recorder.until(lambda: pool.status.kv_used_bytes == 0)
        assert set(recorder.cancelled) <= {"decode", "queued", "prefill"}
        assert len(recorder.cancelled) == 2
        with pytest.raises(RequestAborted):
            await read_all(generation)


async def test_finish_choice_ends_one_choice_silently(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        request = request_of(prompt_of(20), 1, 2, max_tokens=40)
        generation = await pool.submit(request)
        answer = Answer()
        async for event in generation:
            answer.take(event)
            if len(answer.tokens.get(0, ())) == 3:
                generation.finish_choice(0)
                generation.finish_choice(0)
        assert len(answer.tokens[0]) == 3
        assert answer.finish == {1: "length"}
        assert recorder.cancelled == []
        await recorder.until(lambda: pool.status.kv_used_bytes == 0)


async def test_deadline_ends_every_choice_with_what_it_has(tmp_path: Path) -> None:
    async with running_pool(tmp_path, options={"step_seconds": 0.01}) as (pool, recorder):
        request = request_of(prompt_of(20), 1, 2, max_tokens=3000, deadline_seconds=0.5)
        answer = await read_all(await pool.submit(request))
        assert answer.finish == {0: "timeout", 1: "timeout"}
        tokens = answer.tokens.get(0, [])  # a machine busy with other things may give none
        assert tokens == model_completion(request.prompt, 1, len(tokens))
        await recorder.until(lambda: pool.status.kv_used_bytes == 0)


async def test_bounds_answer_at_once(tmp_path: Path) -> None:
    async with running_pool(tmp_path, queue_limit=3, max_tokens_in_flight=4000) as (pool, _):
        held = await pool.submit(request_of(prompt_of(10), 1, 2, max_tokens=1000))
        with pytest.raises(Overloaded) as queue:
            await pool.submit(request_of(prompt_of(10), 1, 2))
        with pytest.raises(Overloaded) as tokens:
            await pool.submit(request_of(prompt_of(10), max_tokens=3000))
        assert (queue.value.reason, tokens.value.reason) == ("queue_full", "tokens_full")
        assert queue.value.retry_after_seconds >= 1
        held.abort()
        await read_all(await pool.submit(request_of(prompt_of(10), 1, 2)))


async def test_what_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        with pytest.raises(ContextTooLong):
            await pool.submit(request_of(prompt_of(4096)))
        with pytest.raises(InvalidRequest):
            await pool.submit(request_of([1000]))
        with pytest.raises(InvalidRequest):
            await pool.submit(request_of([]))


async def test_a_reader_that_does_not_read_holds_up_nobody_and_no_memory(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, recorder):
        unread = await pool.submit(request_of(prompt_of(200), 1, max_tokens=50, prompt_logprobs=0))
        for i in range(3):
            request = request_of(prompt_of(20, i), i, max_tokens=60)
            assert_as_alone(await read_all(await pool.submit(request)), request)
        await recorder.until(lambda: pool.status.kv_used_bytes == 0)  # the unread one ended long ago, too
        assert len(unread._events) <= 50 + 200
        assert_as_alone(await read_all(unread), request_of(prompt_of(200), 1, max_tokens=50))


async def test_drain_finishes_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as (pool, _):
        request = request_of(prompt_of(20), max_tokens=60)
        reading = asyncio.create_task(read_all(await pool.submit(request)))
        draining = asyncio.create_task(pool.drain(30.0))
        await asyncio.sleep(0)
        assert pool.status.draining
        assert not pool.status.ready
        with pytest.raises(Unavailable):
            await pool.submit(request)
        assert_as_alone(await reading, request)
        await draining
        for pid in pool.worker_pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_drain_past_its_limit_aborts_the_rest(tmp_path: Path) -> None:
    async with running_pool(tmp_path, options={"step_seconds": 0.01}) as (pool, _):
        generation = await pool.submit(request_of(prompt_of(20), max_tokens=3000))
        await pool.drain(0.05)
        with pytest.raises(RequestAborted):
            await read_all(generation)


async def test_loading_pool_refuses_and_fatal_failure_is_told(tmp_path: Path) -> None:
    async with running_pool(tmp_path, options={"fail": "the header is damaged"}, wait=False) as (pool, recorder):
        with pytest.raises(Unavailable):
            await pool.submit(request_of([1]))
        await recorder.until(lambda: bool(recorder.restarts))
        await asyncio.sleep(0)
        assert pool.status.failed == "the header is damaged"
        assert not pool.status.ready


async def test_worker_that_never_starts_fails_the_pool(tmp_path: Path) -> None:
    async with running_pool(tmp_path, options={"exit": 7}, wait=False) as (pool, recorder):
        await recorder.until(lambda: len(recorder.restarts) == 3)
        await asyncio.sleep(0)
        assert "code 7" in (pool.status.failed or "")


async def test_restart_storm_ends_in_not_ready(tmp_path: Path) -> None:
    timing = Timing(restarts_per_minute=3, first_delay_seconds=0.001)
    async with running_pool(tmp_path, timing=timing) as (pool, recorder):
        for count in range(1, 5):
            os.kill(pool.worker_pids[0], signal.SIGKILL)
            await recorder.until(lambda count=count: len(recorder.restarts) == count)
            if count < 4:
                await recorder.until(lambda count=count: len(recorder.hellos) == count + 1)
        await asyncio.sleep(0)
        assert not pool.status.ready
        with pytest.raises(Unavailable):
            await pool.submit(request_of([1]))


async def test_two_workers_share_the_load_and_survive_each_other(tmp_path: Path) -> None:
    async with running_pool(tmp_path, workers=2) as (pool, recorder):  # type: ignore[misc]
        await recorder.until(lambda: len(recorder.hellos) == 2)
        requests: list[GenerationRequest] = [request_of(prompt_of(30, i), i, max_tokens=60) for i in range(6)]
        generations = [await pool.submit(request) for request in requests]
        answers = await asyncio.gather(
            _read_killing(generations[0], pool, {5, 20}), *[read_all(generation) for generation in generations[1:]]
        )
        for request, answer in zip(requests, answers, strict=True):
            assert_as_alone(answer, request)
        assert PATIENT.restarts_per_minute > 2

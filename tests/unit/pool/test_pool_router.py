"""The router against workers that are only lists of what they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tritserve.errors import InvalidRequest, NumericFault, Overloaded, RequestAborted, Unavailable, WorkerFailed
from tritserve.pool.generation import ChoiceEnd, ChoiceToken, GenerationRequest, PromptScores
from tritserve.pool.observer import PoolObserver
from tritserve.pool.router import Router
from tritserve.protocol import (
    PROTOCOL_VERSION,
    Abort,
    EndEvent,
    Hello,
    PromptLogprobs,
    ProtocolError,
    SamplingParams,
    StepDone,
    StepStarted,
    StepStats,
    Submit,
    TokenEvent,
    TokenLogprob,
)
from tritserve.settings import Settings

if TYPE_CHECKING:
    from tritserve.pool.stream import RunningGeneration

HELLO = Hello(
    version=PROTOCOL_VERSION,
    pid=1,
    vocab=100,
    isa="ref",
    kernels="",
    num_threads=1,
    num_blocks=64,
    num_adopted_blocks=0,
    block_bytes=10,
    max_model_len=1024,
    load_seconds=0.1,
    self_test_seconds=0.1,
)
STATS = StepStats(0.1, 1, 0, 0, 1, 0, 1, 0)


class Workers:
    """A router and what each of its workers received."""

    def __init__(self, count: int = 1, **settings: Any) -> None:
        self.router = Router(Settings(**settings), count, PoolObserver())
        self.sent: list[list[Any]] = [[] for _ in range(count)]
        for index in range(count):
            self.up(index)

    def up(self, index: int) -> None:
        self.router.worker_up(index, HELLO, self.sent[index].append)

    def submits(self, index: int) -> list[Submit]:
        return [message for message in self.sent[index] if isinstance(message, Submit)]

    def begin(self, index: int, *sequences: tuple[int, int, int]) -> None:
        self.router.worker_message(index, StepStarted(1, list(sequences)))

    def report(self, index: int, *tokens: TokenEvent, **fields: Any) -> None:
        self.router.worker_message(index, StepDone(step=1, tokens=list(tokens), stats=STATS, **fields))

    def ask(self, prompt: list[int] | None = None, choices: int = 1, **fields: Any) -> RunningGeneration:
        given = {"prompt": prompt or [1, 2, 3], "max_tokens": 10, **fields}
        return self.router.submit(
            GenerationRequest(request_id="r", choices=[SamplingParams(seed=seed) for seed in range(choices)], **given)
        )


def token(seq_id: int, index: int, value: int = 7, **fields: Any) -> TokenEvent:
    return TokenEvent(seq_id, index, value, -1.0, [], **fields)


async def events_of(generation: RunningGeneration) -> list[object]:
    return [event async for event in generation]


async def test_choices_of_a_request_go_to_one_worker_in_one_group() -> None:
    workers = Workers(2)
    workers.ask(choices=3)
    workers.ask([9, 9])
    first, second = workers.submits(0), workers.submits(1)
    assert [(s.seq_id, s.group, s.sampling.seed) for s in first] == [(1, 1, 0), (2, 1, 1), (3, 1, 2)]
    assert [(s.seq_id, s.group) for s in second] == [(4, 2)]


async def test_tokens_reach_their_choice_and_the_last_one_ends_it() -> None:
    workers = Workers()
    generation = workers.ask(choices=2)
    workers.report(0, token(1, 0), token(2, 0, 8))
    workers.report(0, token(1, 1, 9, finish="stop"), ends=[EndEvent(2, "length")])
    tokens = [(e.choice, e.token.token, e.finish) for e in await events_of(generation) if isinstance(e, ChoiceToken)]
    assert tokens == [(0, 7, None), (1, 8, None), (0, 9, "stop")]
    assert not workers.router.live
    assert workers.router.admission.num_choices == workers.router.admission.num_tokens == 0


@pytest.mark.parametrize(
    "report",
    [
        {"tokens": (token(1, 1),)},
        {"tokens": (token(1, 0), token(1, 0))},
        {"tokens": (token(5, 0),)},
        {"tokens": tuple(token(1, i) for i in range(11))},
        {"ends": [EndEvent(1, "cancelled")]},
        {"ends": [EndEvent(1, "stop")]},
        {"ends": [EndEvent(5, "length")]},
        {"prompt_logprobs": [PromptLogprobs(1, 2, [TokenLogprob(2, -1.0, [])])]},
        {"prompt_logprobs": [PromptLogprobs(1, 1, [TokenLogprob(2, -1.0, [])] * 3)]},
    ],
    ids=["gap", "repeat", "stranger", "too many", "cancelled", "stop", "strange end", "scores gap", "scores past"],
)
async def test_a_report_that_contradicts_the_journal_breaks_the_protocol(report: dict[str, Any]) -> None:
    workers = Workers()
    workers.ask(prompt_logprobs=0)
    with pytest.raises(ProtocolError):
        workers.report(0, *report.pop("tokens", ()), **report)


async def test_what_a_worker_still_says_of_an_aborted_choice_is_not_heard() -> None:
    workers = Workers()
    generation = workers.ask(choices=2)
    workers.report(0, token(1, 0), token(2, 0))
    generation.abort()
    assert [m for m in workers.sent[0] if isinstance(m, Abort)] == [Abort([1]), Abort([2])]
    workers.report(0, token(1, 1), token(2, 1, finish="length"))
    workers.report(0, ends=[EndEvent(1, "cancelled")])
    with pytest.raises(ProtocolError):
        workers.report(0, ends=[EndEvent(1, "cancelled")])
    with pytest.raises(RequestAborted):
        await events_of(generation)


async def test_a_choice_finished_by_its_reader_delivers_nothing_more_and_the_other_goes_on() -> None:
    workers = Workers()
    generation = workers.ask(choices=2)
    workers.report(0, token(1, 0), token(2, 0))
    generation.finish_choice(0)
    workers.report(0, token(1, 1), token(2, 1, finish="length"))
    assert [event.choice for event in await events_of(generation) if isinstance(event, ChoiceToken)] == [1, 1]


async def test_after_a_death_the_successor_gets_the_tokens_so_far_and_missing_scores_only() -> None:
    workers = Workers()
    generation = workers.ask(prompt_logprobs=1)
    scores = [TokenLogprob(2, -1.0, [])]
    workers.report(0, prompt_logprobs=[PromptLogprobs(1, 1, scores)])
    workers.router.worker_down(0, "crash")
    workers.up(0)
    workers.report(0, prompt_logprobs=[PromptLogprobs(1, 1, [*scores, TokenLogprob(3, -2.0, [])])])
    workers.report(0, token(1, 0))
    workers.router.worker_down(0, "crash")
    workers.up(0)
    assert [(s.forced, s.prompt_logprobs) for s in workers.submits(0)] == [([], 1), ([], 1), ([7], -1)]
    workers.report(0, token(1, 1, finish="stop"))
    events = await events_of(generation)
    assert [(e.start, len(e.entries)) for e in events if isinstance(e, PromptScores)] == [(1, 1), (2, 1)]
    assert [e.token.token for e in events if isinstance(e, ChoiceToken)] == [7, 7]


async def test_an_abort_while_the_worker_is_down_is_not_resubmitted() -> None:
    workers = Workers()
    generation = workers.ask()
    workers.router.worker_down(0, "crash")
    generation.abort()
    waiting = workers.ask()
    workers.up(0)
    assert [s.seq_id for s in workers.submits(0)] == [1, 2]
    assert not waiting.is_over


async def test_only_who_is_stuck_is_blamed_for_three_deaths() -> None:
    workers = Workers()
    poison, long, bystander = workers.ask([4, 4]), workers.ask([5] * 900), workers.ask([6])
    for life in range(3):
        shared = [(1, 0, 2), (2, 64 * life, 64 * life + 64)]
        workers.begin(0, *(shared[:1] if life == 2 else shared))  # the third time the suspect runs alone
        workers.router.worker_down(0, "crash")
        workers.up(0)
    assert [s.alone for s in workers.submits(0) if s.seq_id == 1] == [False, False, True]
    assert not any(s.alone for s in workers.submits(0) if s.seq_id != 1)
    with pytest.raises(WorkerFailed):
        await events_of(poison)
    with pytest.raises(WorkerFailed, match="refused for a minute"):
        workers.ask([4, 4])
    assert not long.is_over
    assert not bystander.is_over


async def test_choices_of_a_lost_worker_go_to_another_or_to_the_first_that_comes() -> None:
    workers = Workers(2)
    workers.ask([1])
    workers.ask([2])
    for index in (0, 1):
        workers.router.worker_down(index, "crash")
        workers.router.worker_lost(index)
    with pytest.raises(Unavailable):
        workers.ask([3])
    workers.up(0)
    assert sorted(s.seq_id for s in workers.submits(0)) == [1, 1, 2]
    workers.up(1)
    workers.router.worker_down(0, "crash")
    workers.router.worker_lost(0)
    assert sorted(s.seq_id for s in workers.submits(1)) == [1, 1, 2, 2]


async def test_endings_without_a_token_tell_their_reason() -> None:
    workers = Workers()
    length, masked, fault, rejected = (workers.ask() for _ in range(4))
    ends = [EndEvent(1, "length"), EndEvent(2, "no_token"), EndEvent(3, "numeric_fault"), EndEvent(4, "rejected")]
    workers.report(0, ends=ends)
    assert await events_of(length) == [ChoiceEnd(0, "length")]
    assert await events_of(masked) == [ChoiceEnd(0, "no_token")]
    with pytest.raises(NumericFault):
        await events_of(fault)
    with pytest.raises(InvalidRequest):
        await events_of(rejected)


async def test_a_pool_that_can_never_start_ends_every_request() -> None:
    workers = Workers()
    generation = workers.ask()
    workers.router.pool_failed("the file is gone")
    with pytest.raises(Unavailable):
        await events_of(generation)
    with pytest.raises(Unavailable):
        workers.ask()


async def test_a_request_over_the_bound_takes_nothing() -> None:
    workers = Workers(queue_limit=2)
    workers.ask()
    with pytest.raises(Overloaded):
        workers.ask(choices=2)
    assert workers.router.admission.num_choices == 1
    assert len(workers.submits(0)) == 1


async def test_a_request_that_only_scores_nothing_ends_at_once() -> None:
    workers = Workers()
    assert await events_of(workers.ask(max_tokens=0)) == [ChoiceEnd(0, "length")]
    assert workers.sent[0] == []

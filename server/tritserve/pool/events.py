"""From a worker's frames to events of the choices they name, checked against the journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritserve.errors import GrammarFailed, InvalidRequest, NumericFault
from tritserve.pool.generation import ChoiceEnd, ChoiceToken, PromptScores
from tritserve.protocol import ProtocolError, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritserve.pool.admission import FairClock, Throughput
    from tritserve.pool.observer import PoolObserver
    from tritserve.pool.port import Port
    from tritserve.pool.stream import LiveChoice
    from tritserve.protocol import EndEvent, GrammarDone, PromptLogprobs, StepDone, StepStarted, TokenEvent


class StepReader:
    """Apply steps to live choices. Every method raises ProtocolError when a worker says what cannot be."""

    def __init__(
        self,
        live: dict[int, LiveChoice],
        throughput: Throughput,
        fair: FairClock,
        end_choice: Callable[[LiveChoice], None],
        observer: PoolObserver,
    ) -> None:
        self._live = live
        self._throughput = throughput
        self._fair = fair
        self._end_choice = end_choice
        self._observer = observer

    def step_started(self, port: Port, message: StepStarted) -> None:
        """Remember who is in the step; note the time for those in their first one."""
        port.in_step = {seq_id: range(start, stop) for seq_id, start, stop in message.sequences}
        now = asyncio.get_running_loop().time()
        for seq_id in port.in_step:
            choice = self._live.get(seq_id)
            if choice is not None and choice.started_at is None:
                choice.started_at = now
                self._fair.advance(choice.entry.submit.arrival)
                if choice.generation.queue_seconds is None:
                    choice.generation.queue_seconds = now - choice.submitted_at
                self._observer.on_queue_time(now - choice.submitted_at)

    def step_done(self, port: Port, message: StepDone) -> None:
        """Deliver what a step produced."""
        port.in_step = {}
        port.stats = message.stats
        self._throughput.add(message.stats)
        for seq_id, num_cached in message.cached:
            self._admitted(seq_id, num_cached)
        for piece in message.prompt_logprobs:
            self._scores(port, piece)
        for event in message.tokens:
            self._token(port, event)
        for end in message.ends:
            self._end(port, end)
        self._observer.on_step(port.index, message.stats)

    def grammar_done(self, port: Port, message: GrammarDone) -> None:
        """A grammar is compiled, or was in the worker's cache; its sequence may have been aborted."""
        port.compiling = None
        choice = self._find(port, message.seq_id)
        if choice is not None and choice.entry.submit.grammar is not None and message.seconds is not None:
            self._observer.on_grammar_compiled(choice.entry.submit.grammar.kind, message.seconds)

    def _find(self, port: Port, seq_id: int) -> LiveChoice | None:
        """Return the live choice, or None for one that was aborted here and still talks."""
        if seq_id in port.live:
            return self._live[seq_id]
        if seq_id not in port.aborted:
            raise ProtocolError(f"an event names sequence {seq_id}, which this worker does not have")
        return None

    def _admitted(self, seq_id: int, num_cached: int) -> None:
        choice = self._live.get(seq_id)
        if choice is None or choice.was_admitted:
            return  # after a death the cache holds the request's own blocks: not news to its client
        choice.was_admitted = True
        self._observer.on_prompt(len(choice.entry.submit.prompt), num_cached)
        if choice.index == 0:
            choice.generation.num_cached_tokens = num_cached

    def _scores(self, port: Port, piece: PromptLogprobs) -> None:
        choice = self._find(port, piece.seq_id)
        if choice is None:
            return
        entry = choice.entry
        num_known = entry.num_scored + 1 - piece.start
        if num_known < 0 or piece.start + len(piece.entries) > len(entry.submit.prompt):
            raise ProtocolError(
                f"prompt scores of sequence {piece.seq_id} from {piece.start}, not {entry.num_scored + 1}"
            )
        news = piece.entries[num_known:]
        if news:
            choice.generation.deliver(PromptScores(entry.num_scored + 1, news))
            entry.num_scored += len(news)

    def _token(self, port: Port, event: TokenEvent) -> None:
        choice = self._find(port, event.seq_id)
        if choice is None:
            if event.finish is not None:
                port.aborted.discard(event.seq_id)
            return
        entry = choice.entry
        if event.index != len(entry.tokens) or event.index >= entry.submit.max_tokens:
            raise ProtocolError(f"token {event.index} of sequence {event.seq_id}, expected {len(entry.tokens)}")
        entry.record_token(event.token)
        self._observer.on_token()
        if choice.first_token_at is None:
            choice.first_token_at = asyncio.get_running_loop().time()
            self._observer.on_prefill_time(choice.first_token_at - (choice.started_at or choice.submitted_at))
        scored = TokenLogprob(event.token, event.logprob, event.top)
        choice.generation.deliver(ChoiceToken(choice.index, scored, event.finish))
        if event.finish is not None:
            self._end_choice(choice)

    def _end(self, port: Port, end: EndEvent) -> None:
        choice = self._find(port, end.seq_id)
        port.aborted.discard(end.seq_id)
        if choice is None:
            return
        if end.finish in ("cancelled", "stop"):
            raise ProtocolError(f"sequence {end.seq_id} ended with {end.finish} unasked")
        if end.finish in ("length", "no_token"):
            choice.generation.deliver(ChoiceEnd(choice.index, end.finish))
        self._end_choice(choice)
        match end.finish:
            case "numeric_fault":
                self._observer.on_numeric_fault()
                choice.generation.fail(NumericFault("The model computed a value that is not a finite number."))
            case "grammar_too_complex":
                choice.generation.fail(
                    GrammarFailed(
                        "The answer cannot go on: following its grammar needs more than is allowed.", end.finish
                    )
                )
            case "grammar_dead_end":
                choice.generation.fail(
                    GrammarFailed(
                        "The answer cannot go on: it is not complete, and no token that may be chosen continues its grammar.",
                        end.finish,
                    )
                )
            case "rejected":
                choice.generation.fail(InvalidRequest("The request cannot be run: a value is out of range."))

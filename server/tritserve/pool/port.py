"""The router's picture of one worker: whether it can take work, what it has, and what it is computing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritserve.protocol import Abort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tritserve.pool.observer import RestartReason
    from tritserve.protocol import Hello, StepStats, ToWorker


@dataclass(slots=True)
class Port:
    """One worker slot. ``hello`` is that of its latest life; ``send`` is None while it is down.

    ``is_lost``: it will not come back soon. ``in_step`` are the suspects if it dies now, each with the tokens of it that are
    being computed; ``compiling`` is one whose grammar is. ``aborted`` were ended here and their last event is still on its way.
    """

    index: int
    hello: Hello | None = None
    send: Callable[[ToWorker], None] | None = None
    is_lost: bool = False
    live: set[int] = field(default_factory=set)
    in_step: dict[int, range] = field(default_factory=dict)
    compiling: int | None = None
    aborted: set[int] = field(default_factory=set)
    num_tokens: int = 0
    stats: StepStats | None = None
    death: RestartReason | None = None

    @property
    def is_usable(self) -> bool:
        """Whether work may be assigned: up, or up before and restarting."""
        return self.hello is not None and not self.is_lost

    def abort(self, seq_ids: Iterable[int]) -> None:
        """Have the worker drop sequences by its next step."""
        dropped = [seq_id for seq_id in seq_ids if seq_id in self.live]
        if dropped and self.send is not None:
            self.aborted.update(dropped)
            self.send(Abort(dropped))


class PrefixAffinity:
    """Which worker computed a prompt's beginning last: its prefix cache has it."""

    def __init__(self, *, num_tokens: int = 64, capacity: int = 4096) -> None:
        self._num_tokens = num_tokens
        self._capacity = capacity
        self._workers: dict[tuple[int, ...], int] = {}

    def choose(self, prompt: list[int], ports: list[Port]) -> Port:
        """Return the worker to give ``prompt`` to: the one that knows its beginning unless it is much busier than the idlest."""
        key = tuple(prompt[: self._num_tokens])
        idlest = min(ports, key=lambda port: (port.send is None, port.num_tokens, port.index))
        known = next((port for port in ports if port.index == self._workers.get(key)), idlest)
        slack = idlest.num_tokens + 4 * len(prompt)
        chosen = known if known.num_tokens <= slack and known.send is not None else idlest
        self._workers.pop(key, None)  # moves the key to the end: the oldest is dropped first
        self._workers[key] = chosen.index
        if len(self._workers) > self._capacity:
            del self._workers[next(iter(self._workers))]
        return chosen

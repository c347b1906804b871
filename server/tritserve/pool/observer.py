"""What the pool reports while it works; telemetry listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tritserve.protocol import GrammarKind, Hello, StepStats

RestartReason = Literal["crash", "exit", "hang", "protocol"]
"""Why a worker was replaced: killed by a signal, ended by itself, did not answer, or broke the protocol."""
Stage = Literal["queued", "prefill", "decode"]
"""How far a choice was when it was cancelled: in no step yet, in one but without a token, with tokens."""


class PoolObserver:
    """Listens to nothing; override what you want to hear.

    Called in the event loop, synchronously; must be quick and must not raise. ``worker`` is the slot's index.
    """

    def on_ready(self, worker: int, hello: Hello) -> None:
        """A worker is up."""

    def on_step(self, worker: int, stats: StepStats) -> None:
        """A step is over."""

    def on_restart(self, reason: RestartReason) -> None:
        """A worker died and is replaced."""

    def on_resumed(self, count: int, reason: RestartReason) -> None:
        """So many choices were given to a worker again after a death."""

    def on_cancelled(self, stage: Stage) -> None:
        """A choice was aborted."""

    def on_numeric_fault(self) -> None:
        """A logit was not finite."""

    def on_queue_time(self, seconds: float) -> None:
        """From submission to the first step a choice takes part in."""

    def on_prefill_time(self, seconds: float) -> None:
        """From its first step to its first token."""

    def on_decode_time(self, seconds: float) -> None:
        """From its first token to its end."""

    def on_prompt(self, num_tokens: int, num_cached: int) -> None:
        """A choice was admitted to its first step, with so many of its prompt tokens found in the prefix cache."""

    def on_token(self) -> None:
        """A new token of a choice arrived; never one that was known before a worker's death."""

    def on_grammar_check(self, kind: GrammarKind, *, was_known: bool, refused: bool) -> None:
        """A request's grammar was checked, or had been before."""

    def on_grammar_compiled(self, kind: GrammarKind, seconds: float) -> None:
        """A worker compiled a grammar that it did not have."""

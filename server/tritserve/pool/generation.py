"""What the HTTP layer asks of the pool and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tritserve.protocol import FinishReason, Grammar, KernelTime, SamplingParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One HTTP generation request for one prompt: ``len(choices)`` independent choices, all validated.

    ``choices[i].seed`` is already the choice's own. ``deadline_seconds`` is the wall time allowed from submission (None: the server's limit);
    when it passes, every unfinished choice ends with what it has (finish ``timeout``). ``prompt_logprobs`` >= 0 asks for log-probabilities of the
    prompt with that many top entries (choice 0 computes them once). ``grammar`` was found good by ``Pool.check_grammar``.
    """

    request_id: str
    prompt: list[int]
    choices: list[SamplingParams]
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    prompt_logprobs: int = -1
    priority: int = 0
    cache_salt: bytes = b""
    key_name: str = ""
    deadline_seconds: float | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class ChoiceToken:
    """One new token of one choice. ``finish`` is set on its last one."""

    choice: int
    token: TokenLogprob
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """A choice ended without a new token: ``length`` (nothing to generate), ``timeout``, or ``no_token`` (every id was masked out)."""

    choice: int
    finish: FinishReason | str


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of the prompt's tokens from index ``start`` on (index 0 has none), in order, in pieces."""

    start: int
    entries: list[TokenLogprob]


GenerationEvent = ChoiceToken | ChoiceEnd | PromptScores


class Generation(Protocol):
    """A running request. Iterate its events until it ends; leaving the iteration early does NOT stop it, ``abort`` does.

    ``queue_seconds``: from submission to the first step that one of its choices took part in (None: not yet).
    Iteration raises WorkerFailed, NumericFault, GrammarFailed, RequestAborted, Unavailable (no worker can ever start) or InvalidRequest when
    the request fails, behind the events that came before.
    """

    num_cached_tokens: int
    queue_seconds: float | None

    def __aiter__(self) -> AsyncIterator[GenerationEvent]: ...

    def finish_choice(self, choice: int) -> None:
        """A stop string matched: end this choice; no further event of it is delivered. Synchronous, idempotent."""
        ...

    def abort(self) -> None:
        """End every choice at the next step. Synchronous, idempotent; call it in ``finally``."""
        ...


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A snapshot for /ready, /props, /metrics and the banner."""

    ready: bool
    draining: bool
    failed: str | None
    num_workers: int
    isa: str
    kernels: str
    num_threads: int
    max_model_len: int
    num_running: int
    num_waiting: int
    kv_used_bytes: int
    kv_capacity_bytes: int
    kv_dtype: str = "int16"
    oldest_waiting_seconds: float = 0.0
    kernel_times: tuple[KernelTime, ...] = ()


class Pool(Protocol):
    """The seam between HTTP and the workers; tests put a fake here."""

    @property
    def status(self) -> PoolStatus: ...

    async def submit(self, request: GenerationRequest) -> Generation:
        """Admit a request. Raises Overloaded (queue or tokens in flight full), Unavailable (loading, draining, no worker), ContextTooLong,
        InvalidRequest or WorkerFailed (the prompt killed a worker three times in the last minute), at once."""
        ...

    async def check_grammar(self, grammar: Grammar) -> str | None:
        """Say why a grammar cannot be used (malformed, unsupported, too costly), for the client; None: it can. Nothing else waits meanwhile.
        Raises Overloaded (too many wait to be checked) or Unavailable."""
        ...

    async def start(self) -> None: ...

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new work, let running requests finish until the limit, end the rest with RequestAborted, stop the workers."""
        ...

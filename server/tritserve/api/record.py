"""What a route tells telemetry about a generation request: one record when it is over, and two clocks while it runs.

Clocks are monotonic. A request starts when it is received in full (``request.state.received_at``); a token counts when its event
reaches the HTTP layer, before it is written to the socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Endpoint = Literal["chat", "completions", "messages", "responses"]

Outcome = Literal["stop", "length", "tool_calls", "cancelled", "timeout", "error", "rejected"]
"""How a request ended. ``rejected``: nothing was generated because the request was refused (``reject_reason`` says why). With several choices
the first that applies of timeout, length, tool_calls, stop."""

RejectReason = Literal["queue_full", "tokens_full", "deadline", "key_limit", "draining", "too_long", "invalid"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished generation request; holds no text of it. Times in seconds, None where the request did not get that far.

    ``model`` is the served name (never a string of the request). Tokens are summed over prompts and choices, but a prompt counts once.
    ``tpot_seconds`` is the mean over its choices of (last - first) / (n - 1), choices of one token left out. ``error_code`` is the error's class
    in the answer (``context_length_exceeded``, ``worker_failed``, ...), "" where it has none.
    """

    request_id: str
    endpoint: Endpoint
    model: str
    key_name: str
    stream: bool
    outcome: Outcome
    duration_seconds: float
    finish_reasons: tuple[str, ...] = ()
    num_choices: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    queue_seconds: float | None = None
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    error_code: str = ""
    reject_reason: RejectReason | None = None


class GenerationTelemetry(Protocol):
    """What the generation routes need of telemetry. Synchronous, quick, never raises."""

    def on_first_token(self, endpoint: Endpoint, seconds: float) -> None:
        """The first token of a request arrived so long after the request: once per request."""
        ...

    def on_inter_token(self, seconds: float) -> None:
        """The gap between two successive tokens of one choice."""
        ...

    def finish_request(self, record: RequestRecord) -> None:
        """A generation request is over: exactly once per request that reached a generation route, refused ones included."""
        ...

"""The clocks of one request and its record for telemetry, written exactly once however the request ends."""

from __future__ import annotations

import time
from asyncio import CancelledError
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from tritserve.api.http_errors import reply_to
from tritserve.api.record import RequestRecord
from tritserve.errors import (
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from tritserve.api.record import Endpoint, GenerationTelemetry, Outcome, RejectReason
    from tritserve.pool.generation import Generation

_REJECT_REASONS: dict[str, RejectReason] = {
    "queue_full": "queue_full",
    "tokens_full": "tokens_full",
    "deadline": "deadline",
    "key_limit": "key_limit",
}


class Meter:
    """One per request. Call ``close`` last, always; what was not said to have failed or finished by then was cancelled."""

    def __init__(
        self,
        telemetry: GenerationTelemetry,
        endpoint: Endpoint,
        model: str,
        request: Request,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        state = request.state
        self.request_id: str = state.request_id
        self.key_name: str = state.key_name
        self.stream = False
        self.num_prompt_tokens = 0
        self.generations: list[Generation] = []
        self._telemetry = telemetry
        self._endpoint: Endpoint = endpoint
        self._model = model
        self._clock = clock
        self._state = state
        self._made_at = clock()
        self._first_at: list[float | None] = []
        self._last_at: list[float] = []
        self._num_tokens: list[int] = []
        self._finish_reasons: list[str] = []
        self._ttft_seconds: float | None = None
        self._outcome: Outcome | None = None
        self._error_code = ""
        self._reject_reason: RejectReason | None = None
        self._is_closed = False

    @property
    def num_generated_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(self._num_tokens)

    @property
    def _received_at(self) -> float:
        """When the body was complete; it is still on its way when the route, and with it the meter, begins."""
        received_at: float = getattr(self._state, "received_at", self._made_at)
        return received_at

    def expect(self, num_choices: int) -> None:
        """Say how many choices the request has, before the first token."""
        self._first_at = [None] * num_choices
        self._last_at = [0.0] * num_choices
        self._num_tokens = [0] * num_choices

    def token(self, choice: int) -> None:
        """A token of a choice arrived."""
        now = self._clock()
        if self._num_tokens[choice]:
            self._telemetry.on_inter_token(now - self._last_at[choice])
        else:
            self._first_at[choice] = now
        if self._ttft_seconds is None:
            self._ttft_seconds = now - self._received_at
            self._telemetry.on_first_token(self._endpoint, self._ttft_seconds)
        self._last_at[choice] = now
        self._num_tokens[choice] += 1

    def finished(self, finish_reason: str, *, timed_out: bool) -> None:
        """A choice ended."""
        self._finish_reasons.append(finish_reason)
        if timed_out or self._outcome == "timeout":
            self._outcome = "timeout"
        elif finish_reason == "length" or self._outcome is None:
            self._outcome = "length" if finish_reason == "length" else "stop"

    def made_calls(self) -> None:
        """The choice that ended last stopped to have functions called."""
        self._finish_reasons[-1] = "tool_calls"
        if self._outcome == "stop":
            self._outcome = "tool_calls"

    def failed(self, error: BaseException, *, client_is_gone: bool = False) -> None:
        """The request ends with an error."""
        if client_is_gone or isinstance(error, (CancelledError, ClientDisconnect)):
            self._outcome = "cancelled"
            return
        self._outcome, self._error_code = "error", _code_of(error)
        if not self.num_generated_tokens:
            self._reject_reason = self._rejection(error)
            if self._reject_reason is not None:
                self._outcome = "rejected"

    def close(self) -> None:
        """Report the request. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        is_whole = self._outcome is not None and (
            self._outcome in ("error", "rejected", "cancelled") or len(self._finish_reasons) == len(self._num_tokens)
        )
        queue_times = [g.queue_seconds for g in self.generations if g.queue_seconds is not None]
        self._telemetry.finish_request(
            RequestRecord(
                request_id=self.request_id,
                endpoint=self._endpoint,
                model=self._model,
                key_name=self.key_name,
                stream=self.stream,
                outcome=self._outcome if is_whole and self._outcome else "cancelled",
                duration_seconds=self._clock() - self._received_at,
                finish_reasons=tuple(self._finish_reasons),
                num_choices=len(self._num_tokens),
                num_prompt_tokens=self.num_prompt_tokens,
                num_cached_tokens=sum(g.num_cached_tokens for g in self.generations),
                num_generated_tokens=self.num_generated_tokens,
                queue_seconds=min(queue_times, default=None),
                ttft_seconds=self._ttft_seconds,
                tpot_seconds=self._tpot_seconds(),
                error_code=self._error_code,
                reject_reason=self._reject_reason,
            )
        )

    def _tpot_seconds(self) -> float | None:
        means = [
            (last - first) / (count - 1)
            for first, last, count in zip(self._first_at, self._last_at, self._num_tokens, strict=True)
            if first is not None and count > 1
        ]
        return sum(means) / len(means) if means else None

    def _rejection(self, error: BaseException) -> RejectReason | None:
        match error:
            case ContextTooLong():
                return "too_long"
            case InvalidRequest() | ModelNotFound() | UnsupportedMediaType():
                return "invalid"
            case Overloaded():
                return _REJECT_REASONS.get(error.reason)
            case Unavailable() if not self.generations:
                return "draining"
        return None


def _code_of(error: BaseException) -> str:
    reply = reply_to(error)
    return reply.code or reply.type

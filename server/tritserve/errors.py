"""The exception tree. Domain code raises these and knows no HTTP; ``api/http_errors.py`` alone maps them to a status.

ServerError
├── InvalidRequest          a field of the request is wrong (names it)
│   ├── ContextTooLong      prompt + 1 does not fit the context
│   └── GrammarFailed       an answer could not be kept to its grammar
├── UnsupportedMediaType    the body is not declared as JSON
├── ModelNotFound           the request names another model
├── Unauthorized            no key, or a wrong one
├── Overloaded              a bound is reached; carries when to come back
├── Unavailable             loading, draining or no worker
├── RequestAborted          the client went away or asked to stop
├── WorkerFailed            the worker died three times under this request
├── NumericFault            a logit was not finite
├── ModelFileError          a checkpoint or packed file is damaged or unsupported
├── SettingsError           a setting is unknown, malformed or contradictory
└── NativeError             libtrit refused a call (status, detail)
"""

from __future__ import annotations


class ServerError(Exception):
    """Root of every error this package raises on purpose; ``str(error)`` may be shown to the client."""


class InvalidRequest(ServerError):
    """Say which field of a request is wrong and what it may be."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextTooLong(InvalidRequest):
    """Refuse a prompt that leaves no room for one new token; both numbers are in the text. ``at_least``: it was too long to be counted."""

    def __init__(
        self, num_prompt_tokens: int, max_model_len: int, *, param: str = "messages", at_least: bool = False
    ) -> None:
        count = f"at least {num_prompt_tokens}" if at_least else str(num_prompt_tokens)
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, but the prompt has {count} "
            "and at least 1 more must fit. Shorten the prompt.",
            param=param,
            code="context_length_exceeded",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_model_len = max_model_len


class GrammarFailed(InvalidRequest):
    """An answer that was begun cannot be ended as its grammar demands."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code=code)


class UnsupportedMediaType(ServerError):
    """The body's Content-Type is not ``application/json``."""


class ModelNotFound(ServerError):
    """The request names a model that this server does not have."""


class Unauthorized(ServerError):
    """No API key, or none that is known."""


class Overloaded(ServerError):
    """A bound is reached: queue, tokens in flight, or a key's share."""

    def __init__(self, message: str, *, reason: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServerError):
    """The server is loading, draining, or has no worker."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RequestAborted(ServerError):
    """The request was stopped by its client or by shutdown."""


class WorkerFailed(ServerError):
    """The worker died three times while it computed this request."""


class NumericFault(ServerError):
    """A logit of this request was NaN or infinite."""


class ModelFileError(ServerError):
    """A checkpoint or packed model file is damaged, incomplete or of an unsupported kind."""


class SettingsError(ServerError):
    """A setting is unknown, malformed or contradicts another."""


class NativeError(ServerError):
    """libtrit refused a call: ``status`` is the enum's name, ``detail`` its text."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail

"""The table of errors: every class has its status, and nothing that was not meant for clients reaches them."""

from __future__ import annotations

import inspect
import logging

import pytest

from tritserve import errors
from tritserve.api.http_errors import plain_reply, reply_to, retry_headers

SHOWN = [
    (errors.InvalidRequest("x", param="top_p", code="invalid_value"), 400, "top_p", "invalid_value"),
    (errors.ContextTooLong(2000, 1024), 400, "messages", "context_length_exceeded"),
    (errors.GrammarFailed("x", "grammar_too_complex"), 400, None, "grammar_too_complex"),
    (errors.Unauthorized("x"), 401, None, "invalid_api_key"),
    (errors.ModelNotFound("x"), 404, "model", "model_not_found"),
    (errors.UnsupportedMediaType("x"), 415, None, "unsupported_media_type"),
    (errors.Overloaded("x", reason="queue_full", retry_after_seconds=2.5), 429, None, "queue_full"),
    (errors.WorkerFailed("x"), 500, None, "worker_failed"),
    (errors.NumericFault("x"), 500, None, "numeric_fault"),
    (errors.Unavailable("x"), 503, None, "unavailable"),
    (errors.RequestAborted("x"), 503, None, "request_aborted"),
]
HIDDEN = [
    errors.ServerError("secret /home/me"),
    errors.ModelFileError("/home/me/model.trit is damaged at 0x7f00"),
    errors.SettingsError("secret"),
    errors.NativeError("TRIT_ERR_MEMORY", "secret"),
    KeyError("secret"),
]


@pytest.mark.parametrize(("error", "status", "param", "code"), SHOWN, ids=lambda value: type(value).__name__)
def test_error_has_its_status_type_param_and_code(
    error: errors.ServerError, status: int, param: str | None, code: str
) -> None:
    reply = reply_to(error)
    assert (reply.status, reply.param, reply.code) == (status, param, code)
    assert reply.body["error"]["message"] == str(error)
    assert reply.type == {429: "rate_limit_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )


def test_every_class_of_the_tree_was_decided_on() -> None:
    classes = {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.ServerError)}
    assert classes == {type(each) for each, *_ in SHOWN} | {type(each) for each in HIDDEN} - {KeyError}


@pytest.mark.parametrize("error", HIDDEN, ids=lambda error: type(error).__name__)
def test_other_errors_say_nothing_and_are_logged_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    reply = reply_to(error, "req_1")
    assert reply_to(error, "req_1") == reply
    assert (reply.status, reply.code) == (500, "internal_error")
    assert "req_1" in reply.message
    assert "secret" not in str(reply.body)
    assert "/home" not in str(reply.body)
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [(logging.ERROR, True)]


def test_failures_of_the_model_are_not_worth_retrying() -> None:
    for error in (errors.WorkerFailed("x"), errors.NumericFault("x")):
        assert reply_to(error).headers == {"x-should-retry": "false"}


def test_overload_says_when_to_come_back_in_seconds_and_milliseconds() -> None:
    reply = reply_to(errors.Overloaded("Busy.", reason="tokens_full", retry_after_seconds=2.3))
    assert reply.headers == {"retry-after": "3", "retry-after-ms": "2300"}
    assert reply.message == "Busy."


def test_wait_of_more_than_a_minute_is_told_in_words_and_sdks_are_told_to_stop() -> None:
    reply = reply_to(errors.Overloaded("Busy.", reason="queue_full", retry_after_seconds=600))
    assert reply.headers == {"retry-after": "60", "retry-after-ms": "60000", "x-should-retry": "false"}
    assert "10 minutes" in reply.message


def test_retry_headers_are_never_zero() -> None:
    assert retry_headers(0.0) == {"retry-after": "1", "retry-after-ms": "1"}


def test_status_without_a_text_still_has_a_body() -> None:
    assert plain_reply(418, "").body["error"]["message"]

"""Render chat templates as ``transformers`` does, from a source that nobody trusts.

``render`` returns text whose characters are marked: what the template wrote itself is trusted, what came from the messages is not.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError

from tritserve.errors import InvalidRequest, ModelFileError
from tritserve.text.template_budget import TemplateLimit, template_budget
from tritserve.text.template_filters import to_text
from tritserve.text.template_sandbox import TemplateSandbox
from tritserve.text.trusted_text import TrustedText, marks, trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

MAX_TEMPLATE_CHARS = 128 * 1024
ROLES = frozenset({"system", "user", "assistant", "tool"})
_MAX_REFUSAL_CHARS = 400
_MAX_KWARGS = 32
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TRIAL = ({"role": "user", "content": "Hello"},)


class _Refused(Exception):  # not a mistake
    """The template called ``raise_exception``."""


def _raise_exception(message: object = "") -> NoReturn:
    raise _Refused(to_text(message)[:_MAX_REFUSAL_CHARS])


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 64 or any(char.isdigit() for char in pattern):
        raise TemplateLimit("strftime_now: the pattern is too long or has a width")
    return datetime.now().strftime(pattern)


_FUNCTIONS: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
# What the server sets itself, and what transformers or other servers take beside the variables of a template.
# fmt: off
RESERVED = frozenset({
    "messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token",
    "chat_template", "conversation", "tokenize", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "template_kwargs",
    "chat_template_kwargs", "self", "loop", "caller", "varargs", "kwargs", "true", "false", "none", "True",
    "False", "None", "cycler", "dict", "joiner", "namespace", "range", "raise_exception", "strftime_now",
})
# fmt: on


class ChatTemplate:
    """One model's template, compiled. Immutable, safe to use from several threads."""

    def __init__(self, source: str, *, bos_text: str | None, eos_text: str | None) -> None:
        """Compile ``source`` and try it on one short message.

        Raises ModelFileError if it is too long, no template, reaches for what the sandbox forbids, or never ends.
        """
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ModelFileError(
                f"the chat template has {len(source)} characters, expected at most {MAX_TEMPLATE_CHARS}"
            )
        sandbox = TemplateSandbox(_FUNCTIONS)
        tokens = {"bos_token": bos_text, "eos_token": eos_text}
        self._variables = {name: trusted(text) for name, text in tokens.items() if text is not None}
        try:
            with template_budget():
                self._template = sandbox.from_string(source)
        except (TemplateError, TemplateLimit, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ModelFileError(f"the chat template cannot be compiled: {_reason(error)}") from error
        try:
            self._run(_TRIAL, True, None, {})
        except (SecurityError, TemplateLimit, RecursionError, MemoryError) as error:
            raise ModelFileError(f"the chat template may not be used: {_reason(error)}") from error
        except Exception as error:  # a template may demand other messages than the trial's
            logger.debug("chat_template_trial_failed reason=%s", _reason(error))

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, object] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> TrustedText:
        """Render messages (``role`` one of ROLES or ``developer``).

        Raises InvalidRequest if the template refuses them, they cost it too much, or ``template_kwargs`` has a reserved name.
        """
        kwargs = _checked_kwargs(template_kwargs or {})
        ours = [
            {**message, "role": _trusted_role(message.get("role"), index)} for index, message in enumerate(messages)
        ]
        try:
            return self._run(ours, add_generation_prompt, tools, kwargs)
        except Exception as error:
            logger.debug("chat_template_refused", exc_info=True)
            raise InvalidRequest(
                f"The model's chat template refused the messages: {_reason(error)}",
                param="messages",
                code="chat_template_error",
            ) from error

    def _run(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, object]] | None,
        kwargs: Mapping[str, object],
    ) -> TrustedText:
        variables: dict[str, Any] = {
            "documents": None,
            **kwargs,
            **self._variables,
            "messages": list(messages),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        with template_budget():
            text = self._template.render(variables)
        return TrustedText(text, marks(text))


def _trusted_role(role: object, index: int) -> TrustedText:
    """Return the role as trusted text: templates build special tokens from it (``'<|' + role + '|>'``)."""
    name = "system" if role == "developer" else role
    if not isinstance(name, str) or name not in ROLES:
        known = ", ".join(sorted(ROLES | {"developer"}))
        raise InvalidRequest(f"messages[{index}].role must be one of {known}", param=f"messages[{index}].role")
    return trusted(name)


def _checked_kwargs(kwargs: Mapping[str, object]) -> Mapping[str, object]:
    param = "chat_template_kwargs"
    if len(kwargs) > _MAX_KWARGS:
        raise InvalidRequest(f"{param} may have at most {_MAX_KWARGS} names", param=param)
    for name in kwargs:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{param}: a name must be a letter followed by at most 63 letters, digits or _", param=param
            )
        if name in RESERVED:
            raise InvalidRequest(f"{param}: {name} is reserved", param=param)
    return kwargs


def _reason(error: BaseException) -> str:
    """Return what may be shown: a template's own words and ours, never the text of an exception of Python."""
    if isinstance(error, (_Refused, TemplateLimit)):
        return str(error) or "it gives no reason"
    if isinstance(error, SecurityError):
        return "it reaches for something that templates may not use"
    if isinstance(error, TemplateError):
        return _ADDRESS.sub("", error.message or type(error).__name__)[:_MAX_REFUSAL_CHARS]
    if isinstance(error, (RecursionError, MemoryError)):
        return "it is nested too deeply or calls itself without end"
    return f"it fails with {type(error).__name__}"

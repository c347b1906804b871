"""Prompts to token ids: the only CPU work of the API, done in a few threads beside the event loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from anyio import to_thread

from tritserve.errors import ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritserve.api.front import Front
    from tritserve.api.schemas.chat import ConversationBody
    from tritserve.api.schemas.completions import CompletionBody
    from tritserve.text.tools import Function

T = TypeVar("T")

_SHAPES = "a string, a list of strings, a list of token ids or a list of lists of token ids"


@dataclass(frozen=True, slots=True)
class Prompt:
    """``text`` is what the client wrote, None where it sent ids or the ids were cut."""

    ids: list[int]
    text: str | None = None


async def chat_prompt(
    front: Front, body: ConversationBody, messages: list[dict[str, object]], functions: Sequence[Function] = ()
) -> Prompt:
    """Render a conversation, and the functions the model may call, by the model's template and encode it.

    Raises InvalidRequest, ContextTooLong or Unavailable.
    """
    go_on = bool(body.continue_final_message)
    if go_on and body.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message: cannot be true together with add_generation_prompt.",
            param="continue_final_message",
        )
    if go_on and messages[-1]["role"] != "assistant":
        raise InvalidRequest(
            "continue_final_message: the last message must be the assistant's.", param="continue_final_message"
        )
    tools = [function.described() for function in functions]
    num_chars = sum(len(str(message["content"])) for message in messages)
    refuse_hopeless(num_chars + len(json.dumps(tools, ensure_ascii=False)), front, "messages")
    encode = partial(
        front.model.text.encode_chat,
        messages,
        add_generation_prompt=not go_on if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=go_on,
        template_kwargs=body.chat_template_kwargs,
        tools=tools or None,
    )
    ids = await in_text_thread(front, encode)
    if not ids:
        raise InvalidRequest("messages: the rendered prompt is empty.", param="messages")
    return Prompt(_truncated(ids, body.truncate_prompt_tokens))


async def text_prompts(front: Front, body: CompletionBody) -> list[Prompt]:
    """Return the prompts of a text completion request, in order. Raises InvalidRequest, ContextTooLong or Unavailable."""
    keep = body.truncate_prompt_tokens
    given = _split(body.prompt)
    if not given:
        raise InvalidRequest("prompt: must not be empty.", param="prompt")
    if len(given) > front.settings.max_prompts:
        raise InvalidRequest(
            f"prompt has {len(given)} prompts; the limit is {front.settings.max_prompts}.", param="prompt"
        )
    prompts = []
    for prompt in given:
        if not prompt:
            raise InvalidRequest("prompt: must not be empty.", param="prompt")
        if isinstance(prompt, str):
            refuse_hopeless(len(prompt), front, "prompt")
            parse_special = body.parse_special is not False
            ids = await in_text_thread(
                front, partial(front.model.text.encode_prompt, prompt, parse_special=parse_special)
            )
            if not ids:
                raise InvalidRequest("prompt: has no tokens.", param="prompt")
            cut = _truncated(ids, keep)
            _refuse_too_long(cut, front)
            prompts.append(Prompt(cut, prompt if cut is ids else None))
        else:
            ids = _truncated(prompt, keep)
            _check_ids(ids, front)
            prompts.append(Prompt(ids))
    return prompts


def refuse_hopeless(num_chars: int, front: Front, param: str) -> None:
    """Refuse what cannot fit before it costs anything: a token covers no more than the longest one's bytes. Raises ContextTooLong, or
    Unavailable while the model is being loaded.

    Prompts to be truncated have the same bound: it is several times what fits of any real text, and encoding 4 MB takes seconds.
    """
    context = front.max_model_len()
    if num_chars > front.model.text.most_chars(context):
        num_tokens = -(-num_chars // front.model.text.most_chars(1))
        raise ContextTooLong(num_tokens, context, param=param, at_least=True)


async def in_text_thread(front: Front, encode: Callable[[], T]) -> T:
    """Run CPU work on text beside the event loop, in one of the few threads for it."""
    return await to_thread.run_sync(encode, limiter=front.text_threads)


def _truncated(ids: list[int], keep: int | None) -> list[int]:
    return ids if keep is None or keep >= len(ids) else ids[-keep:]


def _refuse_too_long(ids: list[int], front: Front) -> None:
    """Refuse the first prompt that is too long, before the ones behind it cost anything. Raises ContextTooLong."""
    context = front.max_model_len()
    if len(ids) > context:
        raise ContextTooLong(len(ids), context, param="prompt")


def _check_ids(ids: list[int], front: Front) -> None:
    _refuse_too_long(ids, front)
    if min(ids) < 0 or max(ids) >= front.model.vocab_size:
        raise InvalidRequest(
            f"prompt: a token id is outside the vocabulary, 0 to {front.model.vocab_size - 1}.", param="prompt"
        )


def _split(prompt: object) -> list[str] | list[list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list):
        if all(isinstance(item, str) for item in prompt):
            return prompt
        if _are_ids(prompt):
            return [prompt]
        if all(isinstance(item, list) and _are_ids(item) for item in prompt):
            return prompt
    raise InvalidRequest(f"prompt: must be {_SHAPES}.", param="prompt", code="invalid_type")


def _are_ids(items: list[object]) -> TypeGuard[list[int]]:
    return all(type(item) is int for item in items)  # true and false are ints to isinstance

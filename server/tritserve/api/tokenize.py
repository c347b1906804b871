"""POST /tokenize, POST /detokenize and GET /tokenizer_info: the model's tokenizer, for clients that prepare or score prompts themselves.

The shapes are those evaluation harnesses read. Nothing here waits for a worker's step.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from tritserve.api.body import check_body, read_body, read_json
from tritserve.api.convert import check_model
from tritserve.api.logprobs import token_key
from tritserve.api.messages import template_messages
from tritserve.api.parameters import IGNORABLE, ignored_headers, sort_out
from tritserve.api.prompts import chat_prompt, in_text_thread, refuse_hopeless
from tritserve.api.respond import JSON_MEDIA_TYPE
from tritserve.api.schemas.tokenize import (
    DetokenizeAnswer,
    DetokenizeBody,
    TokenizeAnswer,
    TokenizeChatBody,
    TokenizerInfo,
    TokenizeTextBody,
)
from tritserve.errors import ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    from tritserve.api.front import Front

router = APIRouter()


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """Encode a text as /v1/completions would, or a conversation as /v1/chat/completions would. More than the context may come out."""
    front: Front = request.app.state.front
    value = await read_json(request, front.settings.max_json_depth)
    if (value.get("prompt") is None) == (value.get("messages") is None):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    if value.get("prompt") is not None:
        text = check_body({**value, "messages": None}, TokenizeTextBody)
        ignored = _check(text, front)
        ids = await _encode_text(front, text)
        wants_texts = bool(text.return_token_strs)
    else:
        chat = check_body({**value, "prompt": None}, TokenizeChatBody)
        ignored = _check(chat, front)
        messages, more = template_messages(chat, front.settings)
        ignored += more
        ids = (await chat_prompt(front, chat, messages)).ids
        wants_texts = bool(chat.return_token_strs)
    tokenizer = front.model.text.tokenizer
    texts = [token_key(tokenizer.token_bytes(token)) for token in ids] if wants_texts else None
    return _reply(TokenizeAnswer(len(ids), front.max_model_len(), ids, texts), ignored)


@router.post("/detokenize")
async def detokenize(request: Request) -> Response:
    """Decode token ids, at most as many as the context has; special tokens are spelt out."""
    front: Front = request.app.state.front
    body = await read_body(request, DetokenizeBody, front.settings.max_json_depth)
    ignored = _check(body, front)
    context, vocab = front.max_model_len(), front.model.vocab_size
    if len(body.tokens) > context:
        raise ContextTooLong(len(body.tokens), context, param="tokens")
    for index, token in enumerate(body.tokens):
        if token >= vocab:
            raise InvalidRequest(
                f"tokens[{index}]: is outside the vocabulary, 0 to {vocab - 1}.", param=f"tokens[{index}]"
            )
    tokenizer = front.model.text.tokenizer
    content = b"".join(map(tokenizer.token_bytes, body.tokens))
    return _reply(DetokenizeAnswer(content.decode("utf-8", "replace")), ignored)


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> Response:
    """Describe the tokenizer and give the chat template."""
    front: Front = request.app.state.front
    text, special = front.model.text, front.model.special_tokens
    spellings = text.tokenizer.special_tokens
    eos = spellings.get(special.eos_text or "", special.eos[0] if special.eos else None)
    named = (special.bos, eos, special.pad)
    return _reply(
        TokenizerInfo(
            vocab_size=front.model.vocab_size,
            model_max_length=front.max_model_len(),
            add_bos_token=text.tokenizer.bos_token_id is not None,
            bos_token=special.bos_text or _spelling(front, special.bos),
            bos_token_id=special.bos,
            eos_token=special.eos_text or _spelling(front, eos),
            eos_token_id=eos,
            pad_token=_spelling(front, special.pad),
            pad_token_id=special.pad,
            additional_special_tokens=[spelling for spelling, token in spellings.items() if token not in named],
            chat_template=text.chat_template,
        ),
        [],
    )


async def _encode_text(front: Front, body: TokenizeTextBody) -> list[int]:
    """Encode a text, in a thread. Raises ContextTooLong for one several times as long as any text that fits."""
    refuse_hopeless(len(body.prompt), front, "prompt")
    with_bos = body.add_special_tokens is not False
    encode = front.model.text.encode_prompt if with_bos else front.model.text.tokenizer.encode
    return await in_text_thread(front, partial(encode, body.prompt, parse_special=body.parse_special is not False))


def _check(body: TokenizeTextBody | TokenizeChatBody | DetokenizeBody, front: Front) -> list[str]:
    """Check the model's name; return the names that are ignored. Raises ModelNotFound or InvalidRequest."""
    check_model(body.model, front.model)
    return sort_out(body.model_extra, {}, IGNORABLE, strict=front.settings.strict_parameters)


def _spelling(front: Front, token: int | None) -> str | None:
    return None if token is None else token_key(front.model.text.tokenizer.token_bytes(token)) or None


def _reply(answer: TokenizeAnswer | DetokenizeAnswer | TokenizerInfo, ignored: list[str]) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON_MEDIA_TYPE, headers=ignored_headers(ignored))

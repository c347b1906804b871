"""Bodies and answers of /tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

import msgspec

from tritserve.api.schemas.chat import ConversationBody
from tritserve.api.schemas.common import ModelName, TokenId, WireModel


class TokenizeTextBody(WireModel):
    """A text to encode as /v1/completions would; ``add_special_tokens`` is about BOS, ``parse_special`` about spellings in the text."""

    model: ModelName | None = None
    prompt: str
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatBody(ConversationBody):
    """A conversation to encode as /v1/chat/completions would."""

    model: ModelName | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(WireModel):
    """Token ids to turn into text."""

    model: ModelName | None = None
    tokens: list[TokenId]


class TokenizeAnswer(msgspec.Struct):
    """``token_strs`` are null unless asked for; bytes that are no UTF-8 are written ``bytes:\\xNN``, as in log-probabilities."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(msgspec.Struct):
    """The text, special tokens spelt out."""

    prompt: str


class TokenizerInfo(msgspec.Struct):
    """What a client needs to prepare prompts by itself. Texts and ids are null where the model has none."""

    vocab_size: int
    model_max_length: int
    add_bos_token: bool
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    additional_special_tokens: list[str]
    chat_template: str | None

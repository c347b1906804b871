"""A front around a scripted pool: a byte-level tokenizer made here, the simplest chat template, telemetry that remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import tokenizers
from fastapi import FastAPI, Request, Response
from tokenizers import decoders, models, pre_tokenizers

from tritserve.api import chat, completions
from tritserve.api import models as model_routes
from tritserve.api.front import Front, ServedModel
from tritserve.api.http_errors import reply_to
from tritserve.errors import ServerError
from tritserve.model.header import GenerationDefaults
from tritserve.settings import Settings
from tritserve.text.detokenizer import Detokenizer
from tritserve.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scripted_pool import ScriptedPool

    from tritserve.api.record import RequestRecord

EOS = 256
ASSISTANT = 257
HELLO, WORLD, CAT_EMOJI_HEAD = 258, 259, 260
"""Ids behind the 256 bytes: two special tokens, "Hello", " world" and the first two bytes of U+1F408."""
VOCAB_SIZE = 261
WEIGHTS = "0" * 64


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose ids below 256 are the bytes themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    chars = {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    vocab = {char: byte for byte, char in chars.items()}
    vocab |= {"<eos>": EOS, "<assistant>": ASSISTANT, "Hello": HELLO, chars[0x20] + "world": WORLD}
    vocab[chars[0xF0] + chars[0x9F]] = CAT_EMOJI_HEAD
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<assistant>"])
    return Tokenizer(backend.to_str().encode())


class ByteText:
    """A ``ModelText``: ``role: content`` line by line, then the assistant's token."""

    has_chat_template = True

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer()
        self.chats: list[dict[str, Any]] = []

    def most_chars(self, num_tokens: int) -> int:
        """Return the most characters of so many tokens."""
        return num_tokens * self.tokenizer.max_piece_bytes

    def encode_prompt(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Encode a text."""
        return self.tokenizer.encode(text, parse_special=parse_special)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Encode a conversation and remember how it was asked for."""
        self.chats.append(
            {
                "messages": list(messages),
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "template_kwargs": template_kwargs,
            }
        )
        text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        ids = list(text.encode())
        return [*ids, ASSISTANT] if add_generation_prompt else ids

    def detokenizer(self) -> Detokenizer:
        """Return a new detokenizer."""
        return Detokenizer(self.tokenizer)


class MemoryTelemetry:
    """Remembers what routes report."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.first_tokens: list[tuple[str, float]] = []
        self.gaps: list[float] = []

    def on_first_token(self, endpoint: str, seconds: float) -> None:
        """Remember."""
        self.first_tokens.append((endpoint, seconds))

    def on_inter_token(self, seconds: float) -> None:
        """Remember."""
        self.gaps.append(seconds)

    def finish_request(self, record: RequestRecord) -> None:
        """Remember."""
        self.records.append(record)


def byte_front(pool: ScriptedPool, *, defaults: GenerationDefaults | None = None, **settings: Any) -> Front:
    """Return a front of these parts; ``settings`` override the defaults."""
    model = ServedModel(
        names=("tiny", "org/tiny"),
        created=1_700_000_000,
        text=ByteText(),  # type: ignore[arg-type]  # the part of ModelText that routes use
        eos_token_ids=frozenset({EOS}),
        defaults=defaults or GenerationDefaults(),
        vocab_size=VOCAB_SIZE,
        weights_sha256=WEIGHTS,
    )
    telemetry: Any = MemoryTelemetry()
    return Front(settings=Settings(**settings), pool=pool, model=model, telemetry=telemetry, keys=None)


def generation_app(front: Front) -> FastAPI:
    """Return an app of the generation routes alone, with errors as the whole server answers them."""
    app = FastAPI(openapi_url=None)
    app.state.front = front
    for router in (chat.router, completions.router, model_routes.router):
        app.include_router(router)

    @app.exception_handler(ServerError)
    async def refuse(request: Request, error: ServerError) -> Response:
        reply = reply_to(error)
        return Response(reply.content, reply.status, dict(reply.headers), "application/json")

    return app


def http_client(front: Front) -> httpx.AsyncClient:
    """Return a client of ``generation_app``; it sees no answer before it is whole."""
    transport = httpx.ASGITransport(generation_app(front))
    return httpx.AsyncClient(transport=transport, base_url="http://test/v1")

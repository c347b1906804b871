"""A front around a scripted pool: a byte-level tokenizer made here, the simplest chat template, telemetry that remembers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx
import tokenizers
import uvicorn
from tokenizers import decoders, models, pre_tokenizers

from tritserve.api.app import create_app
from tritserve.api.front import Front, ServedModel
from tritserve.model.header import GenerationDefaults, SpecialTokens
from tritserve.settings import Settings
from tritserve.telemetry import Telemetry
from tritserve.text.detokenizer import Detokenizer
from tritserve.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tritserve.api.keys import KeyRing
    from tritserve.api.record import Endpoint, RequestRecord
    from tritserve.pool.generation import Pool
    from tritserve.text.model_text import ModelText

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
    chat_template = "(a byte template)"

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
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Encode a conversation and remember how it was asked for."""
        self.chats.append(
            {
                "messages": list(messages),
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "template_kwargs": template_kwargs,
                **({"tools": tools} if tools else {}),
            }
        )
        text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        ids = list(text.encode())
        return [*ids, ASSISTANT] if add_generation_prompt else ids

    def detokenizer(self) -> Detokenizer:
        """Return a new detokenizer."""
        return Detokenizer(self.tokenizer)


class MemoryTelemetry(Telemetry):
    """Remembers what routes report, besides counting it."""

    def __init__(self, queue_limit: int) -> None:
        super().__init__(model="tiny", context=256, queue_limit=queue_limit)
        self.records: list[RequestRecord] = []
        self.first_tokens: list[tuple[str, float]] = []
        self.gaps: list[float] = []

    def on_first_token(self, endpoint: Endpoint, seconds: float) -> None:
        """Remember."""
        super().on_first_token(endpoint, seconds)
        self.first_tokens.append((endpoint, seconds))

    def on_inter_token(self, seconds: float) -> None:
        """Remember."""
        super().on_inter_token(seconds)
        self.gaps.append(seconds)

    def finish_request(self, record: RequestRecord) -> None:
        """Remember."""
        super().finish_request(record)
        self.records.append(record)


@dataclass(frozen=True, slots=True)
class ByteFront(Front):
    """A front whose parts are known to be those of this module."""

    text: ByteText = field(kw_only=True)
    memory: MemoryTelemetry = field(kw_only=True)

    @property
    def records(self) -> list[RequestRecord]:
        """What was reported of finished requests."""
        return self.memory.records


def byte_front(
    pool: Pool, *, defaults: GenerationDefaults | None = None, keys: KeyRing | None = None, **settings: Any
) -> ByteFront:
    """Return a front of these parts; ``settings`` override the defaults."""
    text = ByteText()
    model = ServedModel(
        names=("tiny", "org/tiny"),
        created=1_700_000_000,
        text=cast("ModelText", text),  # the part of it that routes use
        special_tokens=SpecialTokens(eos=[EOS], eos_text="<eos>"),
        defaults=defaults or GenerationDefaults(),
        vocab_size=VOCAB_SIZE,
        weights_sha256=WEIGHTS,
    )
    loaded = Settings(**settings)
    telemetry = MemoryTelemetry(loaded.queue_limit)
    return ByteFront(loaded, pool, model, telemetry, keys, text=text, memory=telemetry)


def http_client(front: Front) -> httpx.AsyncClient:
    """Return a client of the whole app; it sees no answer before it is whole."""
    transport = httpx.ASGITransport(create_app(front))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost/v1")


@asynccontextmanager
async def live_server(front: Front) -> AsyncIterator[str]:
    """Serve the app on a socket in this event loop; yield its base URL."""
    config = uvicorn.Config(create_app(front), host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server._serve([listener]))  # without its signal handling
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            await task

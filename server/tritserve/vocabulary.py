"""What the ids of a model's vocabulary stand for, in bytes: read from ``tokenizer.json``, by the front for its text and by a worker for
its grammars. Nothing here knows how text is cut into tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tritserve.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``pieces[id]`` are the bytes of a token, special ones spelt out, empty for an id without a token; ``special_ids`` are no text."""

    pieces: list[bytes]
    special_ids: frozenset[int]


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _Description(msgspec.Struct):
    """The parts of ``tokenizer.json`` that name tokens. The merges, most of its bytes, are skipped unread."""

    model: _Model
    decoder: Any = None
    added_tokens: list[_Added] = []


def read_vocabulary(tokenizer_json: bytes, size: int) -> Vocabulary:
    """Return the pieces of ids 0 to ``size`` - 1. Raises ModelFileError."""
    try:
        description = msgspec.json.decode(tokenizer_json, type=_Description)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError("tokenizer.json cannot be read") from error
    piece = piece_decoder(description.decoder)
    vocab = description.model.vocab
    ids = vocab.items() if isinstance(vocab, dict) else ((entry[0], index) for index, entry in enumerate(vocab))
    pieces = [b""] * size
    named = [*ids, *((added.content, added.id) for added in description.added_tokens)]
    for text, index in named:
        if 0 <= index < size:
            pieces[index] = piece(text)
    special = frozenset(added.id for added in description.added_tokens if added.special and added.content)
    return Vocabulary(pieces, special)


def piece_decoder(decoder: object) -> Callable[[str], bytes]:
    """Choose how token strings become bytes from the ``decoder`` of tokenizer.json. Raises ModelFileError for kinds we do not know."""
    kinds = [node.get("type") for node in nodes(decoder, "decoders")]
    if "ByteLevel" in kinds:
        return _byte_level_piece
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _sentencepiece_piece
    raise ModelFileError(f"tokenizer.json has a decoder of an unsupported kind: {kinds}")


def nodes(description: object, list_name: str) -> Iterator[dict[str, Any]]:
    """Yield a part of tokenizer.json (normalizer, pre-tokenizer, decoder) and, where it is a sequence, its members."""
    pending = [description]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.get(list_name) or [])


def _byte_alphabet() -> dict[str, int]:
    """Return the character -> byte table of byte-level BPE (Radford et al. 2019): printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTES_OF_CHARS = _byte_alphabet()


def _byte_level_piece(token: str) -> bytes:
    """Turn a byte-level token into its bytes; an added token with other characters is its own UTF-8 (as the library's decoder does)."""
    try:
        return bytes([_BYTES_OF_CHARS[char] for char in token])
    except KeyError:
        return token.encode("utf-8", "replace")


def _sentencepiece_piece(token: str) -> bytes:
    """Turn a sentencepiece token into its bytes: the low line is a space, ``<0xNN>`` one byte."""
    fallback = _BYTE_FALLBACK.fullmatch(token)
    if fallback:
        return bytes([int(fallback.group(1), 16)])
    return token.replace("\u2581", " ").encode("utf-8", "replace")

"""Text to token ids and back, from the bytes of a ``tokenizer.json``.

Special tokens never come out of the tokenizer library here: it is told to treat their spelling as ordinary text, and the only places that make
them are the two splits below, at spellings that the caller trusts (``encode``, for text prompts) or at stand-ins that no client can write
(``encode_marked``, for rendered chats). The pieces in between are encoded one by one, which is what the library does itself after its own split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

import tokenizers

from tritserve.errors import ModelFileError

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


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


def _piece_decoder(decoder: object) -> Callable[[str], bytes]:
    """Choose how token strings become bytes from the ``decoder`` of tokenizer.json. Raises ModelFileError for kinds we do not know."""
    kinds: list[object] = []
    pending = [decoder]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            kinds.append(node.get("type"))
            pending.extend(node.get("decoders", []))
    if "ByteLevel" in kinds:
        return _byte_level_piece
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _sentencepiece_piece
    raise ModelFileError(f"tokenizer.json has a decoder of an unsupported kind: {kinds}")


def _longest_match(texts: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern for the leftmost, longest of ``texts``, factored as a tree so that a common prefix is tried once."""
    tree: dict[str, object] = {}
    for text in texts:
        node = tree
        for char in text:
            node = node.setdefault(char, {})  # type: ignore[assignment]  # the tree is recursive
        node[""] = {}

    def render(node: dict[str, object]) -> str:
        branches = [re.escape(char) + render(child) for char, child in node.items() if char]  # type: ignore[arg-type]
        if not branches:
            return ""
        group = "(?:" + "|".join(branches) + ")"
        return group + "?" if "" in node else group

    return re.compile("(" + (render(tree) or "(?!)") + ")")


class Tokenizer:
    """One model's tokenizer. Immutable after construction, safe to use from several threads."""

    def __init__(self, tokenizer_json: bytes, *, bos_token_id: int | None = None) -> None:
        """Read a tokenizer. ``bos_token_id`` is given only for models whose prompts begin with it. Raises ModelFileError."""
        try:
            description = json.loads(tokenizer_json)
            backend = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ModelFileError("tokenizer.json cannot be read") from error
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._piece = _piece_decoder(description.get("decoder"))
        added = backend.get_added_tokens_decoder()
        self._specials = {token.content: (index, token) for index, token in added.items() if token.special}
        self._pattern = _longest_match(self._specials)
        self.bos_token_id = bos_token_id
        self.special_ids = frozenset(index for index, _ in self._specials.values())
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        vocab = backend.get_vocab(with_added_tokens=True)
        self._pieces = {index: self._piece(token) for token, index in vocab.items()}
        self.max_piece_bytes = max(map(len, self._pieces.values()), default=1)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Spelling -> id of every special token."""
        return {text: index for text, (index, _) in self._specials.items()}

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Encode a text prompt; no BOS is added. With ``parse_special`` the spelling of a special token becomes that token."""
        if not parse_special:
            return self._encode_plain(text)
        return self._encode_split(self._pattern.split(text), {})

    def encode_marked(self, text: str, stand_ins: Mapping[str, str]) -> list[int]:
        """Encode a rendering in which only the ``stand_ins`` (one character -> spelling) are special tokens."""
        if not stand_ins:
            return self._encode_plain(text)
        pattern = re.compile("([" + "".join(map(re.escape, stand_ins)) + "])")
        return self._encode_split(pattern.split(text), stand_ins)

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids) if text else []

    def _encode_split(self, pieces: list[str], spelling: Mapping[str, str]) -> list[int]:
        """Encode [text, special, text, ...]; a special token may swallow the white space around it (``lstrip``, ``rstrip``)."""
        ids: list[int] = []
        for index in range(0, len(pieces), 2):
            text = pieces[index]
            if index and self._special(pieces[index - 1], spelling)[1].rstrip:
                text = text.lstrip()
            if index + 1 < len(pieces) and self._special(pieces[index + 1], spelling)[1].lstrip:
                text = text.rstrip()
            ids += self._encode_plain(text)
            if index + 1 < len(pieces):
                ids.append(self._special(pieces[index + 1], spelling)[0])
        return ids

    def _special(self, text: str, spelling: Mapping[str, str]) -> tuple[int, tokenizers.AddedToken]:
        return self._specials[spelling.get(text, text)]

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes a token stands for, special tokens spelt out; nothing for an id without a token."""
        return self._pieces.get(token, b"")

    def visible_bytes(self, token: int) -> bytes:
        """Return the bytes a token adds to the answer: none for special tokens."""
        return b"" if token in self.special_ids else self._pieces.get(token, b"")

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode a whole sequence, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.visible_bytes, tokens)).decode("utf-8", "replace")

"""Text to token ids and back, from the bytes of a ``tokenizer.json``.

Special tokens never come out of the tokenizer library here: it is told to treat their spelling as ordinary text, and the only place that makes
them is the split below, at spellings that the caller trusts: all of a text prompt (``encode``), or what the template wrote in a rendered chat
(``encode_trusted``). The pieces in between are encoded one by one, which is what the library does itself after its own split.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import tokenizers

from tritserve.errors import ModelFileError
from tritserve.text.trusted_text import trusted_runs
from tritserve.vocabulary import nodes, piece_decoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Unicode's White_Space, which is what the library strips; str.strip() would also take U+001C to U+001F.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


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


def _touches_word(text: str, match: re.Match[str]) -> bool:
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return any(char.isalnum() or char == "_" for char in (before, after) if char)


def _load(tokenizer_json: bytes) -> tuple[dict[str, Any], tokenizers.Tokenizer]:
    """Parse a tokenizer. Raises ModelFileError."""
    try:
        description = json.loads(tokenizer_json)
        backend = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception; a panic of its Rust code is a BaseException
        raise ModelFileError("tokenizer.json cannot be read") from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return description, backend


def _later_backend(description: dict[str, Any], backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return the tokenizer for pieces after the first: where a text begins with an added space (``prepend_scheme: first``), they do not."""
    first = [
        node
        for node in nodes(description.get("pre_tokenizer"), "pretokenizers")
        if node.get("prepend_scheme") == "first"
    ]
    if not first:
        return backend
    for node in first:
        node["prepend_scheme"] = "never"
    return _load(json.dumps(description).encode())[1]


def _drops_leading_space(description: dict[str, Any]) -> bool:
    """Return whether the decoder strips the space that marks the beginning of a text."""
    for node in nodes(description.get("decoder"), "decoders"):
        if node.get("type") == "Strip" and node.get("content") == " " and node.get("start", 0) > 0:
            return True
        if node.get("type") == "Metaspace" and node.get("prepend_scheme", "always") != "never":
            return True
    return False


class Tokenizer:
    """One model's tokenizer. Immutable after construction, safe to use from several threads."""

    def __init__(self, tokenizer_json: bytes, *, bos_token_id: int | None = None) -> None:
        """Read a tokenizer. ``bos_token_id`` is given only for models whose prompts begin with it. Raises ModelFileError."""
        description, self._backend = _load(tokenizer_json)
        self._piece = piece_decoder(description.get("decoder"))
        self.drops_leading_space = _drops_leading_space(description)
        added = self._backend.get_added_tokens_decoder()
        self._specials = {
            token.content: (index, token) for index, token in added.items() if token.special and token.content
        }
        self._pattern = _longest_match(self._specials)
        self.bos_token_id = bos_token_id
        self.special_ids = frozenset(index for index, _ in self._specials.values())
        vocab = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self._pieces = {index: self._piece(token) for token, index in vocab.items()}
        self.max_piece_bytes = max(map(len, self._pieces.values()), default=1)
        self._later = _later_backend(description, self._backend)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Spelling -> id of every special token."""
        return {text: index for text, (index, _) in self._specials.items()}

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Encode a text prompt; no BOS is added. With ``parse_special`` the spelling of a special token becomes that token."""
        return self._encode_split(text, self._find(text, [(0, len(text))] if parse_special else []))

    def encode_trusted(self, text: str) -> list[int]:
        """Encode a rendering; no BOS is added. A special token comes only from a spelling that is trusted from end to end."""
        return self._encode_split(text, self._find(text, trusted_runs(text)))

    def _find(self, text: str, runs: Iterable[tuple[int, int]]) -> Iterator[re.Match[str]]:
        """Yield the special tokens' spellings inside ``runs``, leftmost first, the longest of those that begin together."""
        for start, end in runs:
            for match in self._pattern.finditer(text, start, end):
                if not (self._specials[match.group()][1].single_word and _touches_word(text, match)):
                    yield match

    def _encode_split(self, text: str, specials: Iterable[re.Match[str]]) -> list[int]:
        """Encode what lies between the special tokens; one may swallow the white space around it (``lstrip``, ``rstrip``)."""
        text = str.__str__(text)  # plain: the marks have done their work
        ids: list[int] = []
        start, strip_left = 0, False
        for match in specials:
            index, token = self._specials[match.group()]
            self._encode_piece(text, start, match.start(), strip_left, token.lstrip, ids)
            ids.append(index)
            start, strip_left = match.end(), token.rstrip
        self._encode_piece(text, start, len(text), strip_left, False, ids)
        return ids

    def _encode_piece(
        self, text: str, start: int, end: int, strip_left: bool, strip_right: bool, ids: list[int]
    ) -> None:
        piece = text[start:end]
        if strip_left:
            piece = piece.lstrip(_WHITE_SPACE)
        if strip_right:
            piece = piece.rstrip(_WHITE_SPACE)
        if piece:
            backend = self._backend if start == 0 else self._later
            # without offsets half the time of encode(), and the interpreter is free meanwhile
            ids += backend.encode_batch_fast([piece], add_special_tokens=False)[0].ids

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes a token stands for, special tokens spelt out; nothing for an id without a token."""
        return self._pieces.get(token, b"")

    def visible_bytes(self, token: int) -> bytes:
        """Return the bytes a token adds to the answer: none for special tokens."""
        return b"" if token in self.special_ids else self._pieces.get(token, b"")

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode a whole text from its beginning, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        content = b"".join(map(self.visible_bytes, tokens))
        if self.drops_leading_space:
            content = content.removeprefix(b" ")
        return content.decode("utf-8", "replace")

"""Token ids to text, one at a time, never half a UTF-8 character.

The text is the UTF-8 decoding of all tokens' bytes. Bytes that may still begin a valid character are held back; bytes that cannot become U+FFFD,
one for each maximal ill-formed part (Unicode 15, 3.9), which is also what decoding the whole sequence at once gives. Hence:

    "".join(feed(t) for t in tokens) + flush() == tokenizer.decode(tokens)

for a text from its beginning (``at_start``); a text that goes on from a prompt keeps the space that it begins with.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenTable(Protocol):
    """What a detokenizer needs of a tokenizer."""

    drops_leading_space: bool

    def visible_bytes(self, token: int) -> bytes: ...


class Detokenizer:
    """The text of one choice as it grows. At most three bytes are held back; a token costs its own length."""

    def __init__(self, table: TokenTable, *, at_start: bool = False) -> None:
        """Begin a text that goes on from a prompt, or with ``at_start`` one of its own, whose first space may be a mere mark."""
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = at_start and table.drops_leading_space

    def feed(self, token: int) -> str:
        """Take the next token and return the characters it completes."""
        content = self._table.visible_bytes(token)
        if content and self._drop_space:
            self._drop_space = False
            content = content.removeprefix(b" ")
        return self._decoder.decode(content)

    def flush(self) -> str:
        """Return what is left when no token follows: U+FFFD for a character cut in the middle."""
        return self._decoder.decode(b"", final=True)

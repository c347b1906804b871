"""A string that knows which of its characters the model's author wrote.

A chat template mixes its own words (``<|eot_id|>``, ``<|im_start|>``) with contents that clients wrote. In the rendering only the former may become
special tokens. ``TrustedText`` is a ``str`` with one byte per character, 1 where the character is the template's own; it carries those marks through
the operations that templates use. An ordinary ``str`` is wholly untrusted, and so is the result of every operation that is not carried here: what is
lost is lost on the safe side.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class TrustedText(str):
    """Text with its marks; equal to and hashed like the plain string."""

    __slots__ = ("_marks",)
    _marks: bytes

    def __new__(cls, text: str = "", marks: bytes | None = None) -> TrustedText:
        """Join a text with its ``marks``, one byte per character; without them nothing is trusted."""
        self = super().__new__(cls, text)
        self._marks = bytes(len(self)) if marks is None else marks
        return self

    def __str__(self) -> TrustedText:
        return self

    def __add__(self, other: str) -> TrustedText:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> TrustedText:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> TrustedText:
        return TrustedText(str.__mul__(self, times), self._marks * times.__index__())

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> TrustedText:
        if isinstance(key, slice):
            return TrustedText(str.__getitem__(self, key), self._marks[key])
        return TrustedText(str.__getitem__(self, key), bytes([self._marks[key]]))

    def __iter__(self) -> Iterator[TrustedText]:
        return (self._cut(index, index + 1) for index in range(len(self)))

    def _cut(self, start: int, end: int) -> TrustedText:
        return TrustedText(str.__getitem__(self, slice(start, end)), self._marks[start:end])

    # -- white space and affixes

    def lstrip(self, chars: str | None = None, /) -> TrustedText:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> TrustedText:
        return self._cut(0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None, /) -> TrustedText:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> TrustedText:
        return self._cut(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> TrustedText:
        return self._cut(0, len(self) - len(suffix) if self.endswith(suffix) else len(self))

    # -- case

    def lower(self) -> TrustedText:
        return self._recased(str.lower)

    def upper(self) -> TrustedText:
        return self._recased(str.upper)

    def capitalize(self) -> TrustedText:
        return self._recased(str.capitalize)

    def title(self) -> TrustedText:
        return self._recased(str.title)

    def _recased(self, change: Callable[[str], str]) -> TrustedText:
        """Change the case; a text whose length changes with it (``ß``) keeps its marks only if they are all alike."""
        text = change(self)
        if len(text) == len(self):
            return TrustedText(text, self._marks)
        return TrustedText(text, b"\1" * len(text) if 0 not in self._marks else None)

    # -- splitting and joining

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = str.splitlines(self, True)
        starts = accumulate(map(len, whole), initial=0)
        return [
            self._cut(start, start + len(line))
            for start, line in zip(starts, str.splitlines(self, keepends), strict=False)
        ]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parted(str.find(self, sep), sep, missing=len(self))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parted(str.rfind(self, sep), sep, missing=0)

    def _parted(self, at: int, sep: str, missing: int) -> tuple[str, str, str]:
        start, end = (at, at + len(sep)) if at >= 0 else (missing, missing)
        return self._cut(0, start), self._cut(start, end), self._cut(end, len(self))

    def _located(self, pieces: Sequence[str], sep: str | None) -> list[str]:
        """Cut out ``pieces``, which follow each other with ``sep`` (None: white space) between them."""
        found: list[str] = []
        position = 0
        for piece in pieces:
            start = self.find(piece, position) if sep is None else position
            found.append(self._cut(start, start + len(piece)))
            position = start + len(piece) + (len(sep) if sep is not None else 0)
        return found

    def join(self, pieces: Iterable[str], /) -> TrustedText:
        parts = [part for piece in pieces for part in (self, piece)]
        return concat(parts[1:])

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> TrustedText:
        text = str.replace(self, old, new, count)
        if not old:
            return TrustedText(text)
        if 0 not in self._marks and 0 not in marks(new):
            return trusted(text)
        return TrustedText(new, marks(new)).join(self.split(old, count))


def trusted(text: str) -> TrustedText:
    """Return ``text`` as the template's own."""
    return TrustedText(text, b"\1" * len(text))


def marks(text: str) -> bytes:
    """Return one byte per character, 1 where it is trusted."""
    return text._marks if isinstance(text, TrustedText) else bytes(len(text))


def concat(pieces: Iterable[str]) -> TrustedText:
    """Concatenate; raises TypeError if a piece is no string."""
    parts = list(pieces)
    return TrustedText("".join(parts), b"".join(map(marks, parts)))


def trusted_runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every longest run of trusted characters."""
    mask = marks(text)
    start = mask.find(1)
    while start >= 0:
        end = mask.find(0, start)
        if end < 0:
            end = len(mask)
        yield start, end
        start = mask.find(1, end)

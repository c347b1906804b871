"""An answer as the segments that newer APIs make of it: stretches of text and calls of functions, in their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from tritserve.api.generate import EchoedPrompt
from tritserve.text.tools import CallReader, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tritserve.api.answer import Piece, PlacedToken


@dataclass(slots=True)
class Segment:
    """``content`` is text, or the JSON of the arguments of a call of ``name``. ``tokens`` are those of the text."""

    index: int
    name: str | None = None
    content: str = ""
    is_whole: bool = False
    tokens: list[PlacedToken] = field(default_factory=list)


class Change(NamedTuple):
    """What a segment has new; ``tokens`` begin in ``text``."""

    kind: Literal["opened", "grown", "closed"]
    segment: Segment
    text: str = ""
    tokens: tuple[PlacedToken, ...] = ()


def found_in(piece: Piece, reader: CallReader | None) -> Iterator[Found]:
    """Yield what a piece holds: text, and calls where the answer may hold some."""
    if reader is None:
        if piece.text:
            yield Found(None, piece.text)
        return
    yield from reader.feed(piece.text)
    if piece.finish is not None:
        yield from reader.flush()


class Segmenter:
    """Follows one choice. ``on_calls`` is called when it has ended with calls; None: the answer may hold none."""

    def __init__(self, on_calls: Callable[[], None] | None) -> None:
        self.segments: list[Segment] = []
        self.last: Piece | None = None
        """The piece that ended the answer."""
        self._on_calls = on_calls
        self._reader = None if on_calls is None else CallReader()

    @property
    def has_called(self) -> bool:
        """Whether the answer ended with a whole call."""
        is_whole = self.last is not None and self.last.finish == "stop"
        return is_whole and self._reader is not None and self._reader.num_whole > 0

    def take(self, piece: Piece | EchoedPrompt) -> Iterator[Change]:
        """Yield what a piece changes. The last one closes every segment; an empty answer is an empty text."""
        if isinstance(piece, EchoedPrompt):
            raise TypeError("a conversation has no echoed prompt")
        tokens = piece.tokens
        for found in found_in(piece, self._reader):
            yield from self._place(found, tokens)
            tokens = []
        if piece.finish is None:
            return
        self.last = piece
        if not self.segments or (tokens and self.segments[-1].name is None):
            yield from self._place(Found(None), tokens)
        yield from self._close(is_whole=piece.finish == "stop")
        if self.has_called and self._on_calls is not None:
            self._on_calls()

    def _place(self, found: Found, tokens: list[PlacedToken]) -> Iterator[Change]:
        segment = self.segments[-1] if self.segments else None
        is_other = segment is None or found.name is not None or (found.call is None) != (segment.name is None)
        if segment is None or is_other:
            yield from self._close(is_whole=True)
            segment = Segment(len(self.segments), found.name)
            self.segments.append(segment)
            yield Change("opened", segment)
        kept = tokens if segment.name is None else []
        if found.text or kept:
            segment.content += found.text
            segment.tokens += kept
            yield Change("grown", segment, found.text, tuple(kept))

    def _close(self, *, is_whole: bool) -> Iterator[Change]:
        if self.segments:
            self.segments[-1].is_whole = is_whole
            yield Change("closed", self.segments[-1])

"""Stop strings: the same answer as a search in the whole text, however it is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tritserve.text.stop import StopMatcher

ALPHABET = st.text("ab<|>", max_size=40)
STOPS = st.lists(st.text("ab<|>", min_size=1, max_size=6), min_size=1, max_size=5)


def shown_by_search(text: str, stops: list[str], *, include: bool) -> tuple[str, str | None]:
    """Cut at the stop string that ends first, the longest of those that end together."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(ALPHABET, STOPS, st.lists(st.integers(0, 100)), st.booleans())
def test_any_cutting_gives_what_a_search_in_the_whole_text_gives(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    matcher = StopMatcher(stops, include=include)

    shown = "".join(matcher.feed(piece) for piece in pieces_of(text, cuts)) + matcher.flush()

    assert (shown, matcher.matched) == shown_by_search(text, stops, include=include)


@given(ALPHABET, STOPS)
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)

    shown = "".join(matcher.feed(char) for char in text)

    if matcher.matched is None:
        held = text[len(shown) :]
        starts = [text[i:] for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in stops)]
        assert held == max(starts, key=len, default="")


def test_without_stop_strings_everything_is_shown_at_once() -> None:
    matcher = StopMatcher([])

    assert matcher.feed("anything") == "anything"
    assert matcher.flush() == ""
    assert matcher.matched is None


def test_after_a_match_nothing_more_is_shown() -> None:
    matcher = StopMatcher(["END"])

    assert matcher.feed("one EN") == "one "
    assert matcher.feed("D two") == ""
    assert matcher.feed(" three") == ""
    assert matcher.flush() == ""


def test_a_character_costs_a_bounded_number_of_transitions() -> None:
    """The hostile case of naive matchers: a long stop string of one letter that almost matches everywhere."""
    stop = "a" * 255 + "b"
    matcher = StopMatcher([stop, "a" * 100 + "c"])
    automaton = matcher._automaton
    assert automaton is not None
    lookups = 0
    step = automaton.step

    class CountingDict(dict[str, int]):
        def __contains__(self, key: object) -> bool:
            nonlocal lookups
            lookups += 1
            return super().__contains__(key)

    automaton.step = [CountingDict(state) for state in step]
    text = ("a" * 254 + "x") * 40
    matcher.feed(text)

    assert lookups <= 3 * len(text)

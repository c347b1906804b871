"""Make requests out of stories: who is the main character, and how might one ask for it?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

_ARTICLE = r"\b(?P<article>[Aa]n?) "
_KIND = r"(?P<adjectives>(?:(?!an?\b|time\b)[a-z]+,? ){0,3}?)(?P<noun>[a-z]+)"
_NAMED = re.compile(
    _ARTICLE + _KIND + r",? (?:who was |that was |was )?(?:named|called|whose name was) "
    r"(?P<name>[A-Z][a-z]+)\b"
)
_NAME_LATER = re.compile(
    r"(?:was|lived|were|saw|met|had) (?P<article>an?) "
    + _KIND
    + r"(?=[.,!?]| (?:who|that|in|with|and|on|by|from|to|at)\b)[^.!?]*[.!?] "
    r"(?:His|Her|Its|The [a-z]+'s) name was (?P<name>[A-Z][a-z]+)\b"
)
_IS_A = re.compile(r"\b(?P<name>[A-Z][a-z]+) (?:was|is) (?P<article>an?) " + _KIND + r"(?=[.,]| (?:who|that)\b)")
_COMPANION = re.compile(r"\b(?P<name>[A-Z][a-z]+) and (?P<whose>his|her) (?P<noun>[a-z]+)\b")
_PAIR = re.compile(r"\b(?P<first>[A-Z][a-z]+) and (?P<second>[A-Z][a-z]+) (?:were|are|lived|went|liked|loved)\b")
_UNNAMED = re.compile(r"\bthere (?:was|lived) (?P<article>an?) " + _KIND + r"(?= (?:who|that|in|with|and|on)\b|[.,])")
_MID_SENTENCE_NAME = re.compile(r"(?<=[a-z,] )([A-Z][a-z]{2,})\b")
_NOT_NAMES = frozenset(
    [
        *("I", "The", "They", "She", "He", "It", "We", "You", "His", "Her", "Their", "My", "Your"),
        *("One", "Once", "Then", "But", "And", "So", "When", "Yes", "No", "Christmas", "Halloween"),
        *("Mom", "Mommy", "Dad", "Daddy", "Mum", "Mummy", "Grandma", "Grandpa", "Mr", "Mrs", "Miss"),
    ]
)
_NOT_NOUNS = frozenset(
    [
        *("time", "day", "place", "lot", "village", "town", "house", "home", "way", "thing", "name"),
        *("park", "toy", "forest", "meeting", "little", "big", "small", "young", "kind", "race"),
    ]
)
_HEAD = 500
"""Characters of a story in which its main character is introduced."""

_PREFIXES = (
    "Tell me a story about {}.",
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Tell me a short story about {}.",
    "Tell a story about {}.",
    "Can you tell me a story about {}?",
    "Could you tell me a story about {}?",
    "Please tell me a story about {}.",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Can you write a short story about {}?",
    "I want to hear a story about {}.",
    "Do you know a story about {}?",
    "A story about {}, please.",
)
_OPEN = (
    "Tell me a story.",
    "Tell me a story",
    "Please tell me a story.",
    "Can you tell me a story?",
    "Write a short story.",
    "I want to hear a story.",
    "Tell me a bedtime story.",
    "Do you know a story?",
)


@dataclass(frozen=True, slots=True)
class Character:
    """The main character: ``a`` + ``little `` + ``dog`` + ``Max``; empty parts are unknown."""

    article: str = ""
    adjectives: str = ""
    noun: str = ""
    name: str = ""
    phrase: str = ""
    """A whole description that replaces the parts, such as ``Tim and his dog``."""


def find_character(story: str) -> Character | None:
    """Find the main character of a story in its opening, or None."""
    head = story[:_HEAD]
    for pattern in (_NAMED, _NAME_LATER, _IS_A):
        match = pattern.search(head)
        if match and match["noun"] not in _NOT_NOUNS and match["name"] not in _NOT_NAMES:
            return Character(match["article"].lower(), match["adjectives"], match["noun"], match["name"])
    match = _COMPANION.search(head)
    if match and match["name"] not in _NOT_NAMES:
        phrase = f"{match['name']} and {match['whose']} {match['noun']}"
        return Character(name=match["name"], phrase=phrase)
    match = _PAIR.search(head)
    if match and not {match["first"], match["second"]} & _NOT_NAMES:
        return Character(phrase=f"{match['first']} and {match['second']}")
    match = _UNNAMED.search(head)
    if match and match["noun"] not in _NOT_NOUNS:
        return Character(match["article"].lower(), match["adjectives"], match["noun"])
    counts = Counter(name for name in _MID_SENTENCE_NAME.findall(story) if name not in _NOT_NAMES)
    if counts and counts.most_common(1)[0][1] >= 2:
        return Character(name=counts.most_common(1)[0][0])
    return None


def _indefinite(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"


def describe(character: Character, rng: Random) -> str:
    """Describe a character in one of the ways a request might."""
    if character.phrase:
        return character.phrase
    if not character.noun:
        return character.name
    adjectives = character.adjectives if rng.random() < 0.5 else ""
    kind = f"{_indefinite(adjectives or character.noun)} {adjectives}{character.noun}"
    if not character.name:
        return kind
    choice = rng.random()
    if choice < 0.6:
        return f"{kind} named {character.name}"
    if choice < 0.75:
        return f"{kind} called {character.name}"
    return character.name if choice < 0.9 else kind


def make_request(character: Character | None, rng: Random) -> str:
    """Make a request that the story of this character answers."""
    if character is None or rng.random() < 0.08:
        return rng.choice(_OPEN)
    return rng.choice(_PREFIXES).format(describe(character, rng))


def names_by_noun(characters: Iterable[Character | None]) -> dict[str, list[str]]:
    """Collect the names that occur with each noun, such as ``dog``; each name once."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for character in characters:
        if character and character.noun and character.name:
            found[character.noun].add(character.name)
    return {noun: sorted(names) for noun, names in found.items()}


def rename(story: str, character: Character, name: str) -> tuple[str, Character]:
    """Give the main character another name throughout the story."""
    renamed = re.sub(rf"\b{re.escape(character.name)}\b", name, story)
    return renamed, Character(character.article, character.adjectives, character.noun, name)

"""Requests made out of stories."""

from __future__ import annotations

from random import Random

import pytest

from tritserve.demo.story_requests import (
    Character,
    describe,
    find_character,
    make_request,
    names_by_noun,
    rename,
)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("There was a little dog named Max. He ran.", Character("a", "little ", "dog", "Max")),
        ("Once upon a time, there was a girl called Lily.", Character("a", "", "girl", "Lily")),
        ("One day an old, grey cat named Tom slept.", Character("an", "old, grey ", "cat", "Tom")),
        ("There was a big bear. His name was Bob.", Character("a", "big ", "bear", "Bob")),
        ("Once upon a time, a sad cow named Bo ran.", Character("a", "sad ", "cow", "Bo")),
        ("Sara was a kind girl who ran.", Character("a", "kind ", "girl", "Sara")),
        ("Tim and his dog went out.", Character(name="Tim", phrase="Tim and his dog")),
        ("Tom and Sam were best friends.", Character(phrase="Tom and Sam")),
        ("Once there was a sleepy boy who loved to sleep.", Character("a", "sleepy ", "boy")),
        ("One day, Bob ran. The cat saw Bob. It liked Bob.", Character(name="Bob")),
        ("It rained all day and nobody came.", None),
    ],
)
def test_main_character_is_found(story: str, expected: Character | None) -> None:
    assert find_character(story) == expected


@pytest.mark.parametrize("story", ["Mom and her bag were there.", "It was a toy named Zip."])
def test_words_that_are_no_character_are_not_taken(story: str) -> None:
    assert find_character(story) is None


def test_description_uses_what_is_known() -> None:
    character = Character("a", "old ", "dog", "Max")
    seen = {describe(character, Random(seed)) for seed in range(200)}
    assert seen == {
        f"{kind}{name}" for kind in ("a dog", "an old dog") for name in (" named Max", " called Max", "")
    } | {"Max"}


def test_request_for_a_named_dog_is_among_the_requests() -> None:
    character = Character("a", "", "dog", "Max")
    requests = {make_request(character, Random(seed)) for seed in range(500)}
    assert "Tell me a story about a dog named Max." in requests
    assert "Tell me a story." in requests


def test_request_without_a_character_is_open() -> None:
    assert "about" not in make_request(None, Random(1))


def test_renaming_changes_whole_words_in_story_and_character() -> None:
    story, character = rename("Max ran. Maxine saw Max's hat.", Character("a", "", "dog", "Max"), "Rex")
    assert story == "Rex ran. Maxine saw Rex's hat."
    assert character == Character("a", "", "dog", "Rex")


def test_names_are_collected_by_noun() -> None:
    characters = [Character("a", "", "dog", "Rex"), Character("a", "", "dog", "Max"), None, Character(name="Tim")]
    assert names_by_noun([*characters, *characters]) == {"dog": ["Max", "Rex"]}

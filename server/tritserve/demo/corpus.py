"""Read the corpus and turn it into packed rows of token ids.

Documents are (ids, counts) pairs: ``counts[i]`` says whether predicting ``ids[i]`` is trained.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tritserve.demo.chat import GENERATION_PROMPT, Message, parse_dialogue, render
from tritserve.demo.config import BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN, MixtureConfig
from tritserve.demo.story_requests import (
    find_character,
    make_request,
    names_by_noun,
    rename,
)

if TYPE_CHECKING:
    from pathlib import Path

_PERSONAS = ("personality-chat/friendly", "tinytalks")
_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a friendly assistant.",
    "You tell stories to children.",
)
_STORIES_PER_SHARD = 1500
_GENDERED = frozenset(("boy", "girl", "man", "woman", "prince", "princess", "king", "queen"))

Encode = Callable[[list[str]], list[list[int]]]
"""Tokenise texts without adding special tokens; special tokens in the text are recognised."""


@dataclass(frozen=True, slots=True)
class Document:
    """Pieces of text that are tokenised separately, each with whether it is trained on."""

    pieces: tuple[tuple[str, bool], ...]


def read_records(path: Path) -> list[dict[str, str]]:
    """Read one xz-compressed JSON-lines file."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def is_small_talk(record: dict[str, str]) -> bool:
    """Say whether a smalltalk record belongs to the demo model's single persona."""
    return record["source"] in _PERSONAS


def raw_document(text: str) -> Document:
    """Wrap plain text: begin-of-text, the text, end-of-text."""
    return Document(((BEGIN_OF_TEXT, False), (text, True), (END_OF_TEXT, True)))


def chat_document(messages: list[Message]) -> Document:
    """Make a document of a conversation; only the last message, the answer, is trained on.

    Earlier turns are tokenised as one rendered text, as a chat template does at inference; the
    answer is tokenised by itself, because the generation prompt ends in a lone space token.
    """
    prompt = BEGIN_OF_TEXT + render(messages[:-1], add_generation_prompt=True)
    return Document(((prompt, False), (messages[-1].content.strip(), True), (END_OF_TURN, True)))


def pack(
    documents: Iterable[tuple[list[int], list[bool]]], row_tokens: int, padding: int
) -> list[tuple[list[int], list[int]]]:
    """Pack documents best-fit decreasing into rows: (inputs, targets), each of row_tokens ids.

    A document longer than a row is cut, and its later pieces begin with the last id of the piece
    before, to predict from. Targets are -100 where nothing is trained.
    """
    width = row_tokens + 1
    pieces = [
        (ids[start : start + width], [False, *counts[start + 1 : start + width]])
        for ids, counts in documents
        for start in range(0, len(ids) - 1, row_tokens)
    ]
    pieces.sort(key=lambda piece: -len(piece[0]))
    rows: list[tuple[list[int], list[bool]]] = []
    by_room: list[list[int]] = [[] for _ in range(width + 1)]
    for ids, counts in pieces:
        room = next((r for r in range(len(ids), width) if by_room[r]), width)
        if room == width:
            rows.append(([], []))
            by_room[width].append(len(rows) - 1)
        index = by_room[room].pop()
        rows[index][0].extend(ids)
        rows[index][1].extend(counts)
        by_room[room - len(ids)].append(index)
    packed = []
    for ids, counts in rows:
        lack = width - len(ids)
        targets = [i if c else -100 for i, c in zip(ids[1:], counts[1:], strict=True)]
        packed.append((([*ids, *[padding] * lack])[:-1], targets + [-100] * lack))
    return packed


class Corpus:
    """The training documents, and shard after shard of packed rows made from them."""

    def __init__(self, directory: Path, encode: Encode, seed: int) -> None:
        self.encode = encode
        self.seed = seed
        self._order: tuple[int, list[int]] = (-1, [])
        self.stories = [r["text"] for r in read_records(directory / "tinystories.train.jsonl.xz")]
        self.characters = [find_character(story) for story in self.stories]
        self.names = names_by_noun(self.characters)
        self.all_names = sorted({name for names in self.names.values() for name in names})
        self.picture_books = [r["text"] for r in read_records(directory / "picturebooks.train.jsonl.xz")]
        records = read_records(directory / "smalltalk.train.jsonl.xz")
        self.persona = [parse_dialogue(r["text"]) for r in records if r["source"] == _PERSONAS[0]]
        self.facts = [parse_dialogue(r["text"]) for r in records if r["source"] == _PERSONAS[1]]

    def _story_chat(self, index: int, mixture: MixtureConfig, rng: Random) -> list[Message]:
        story, character = self.stories[index], self.characters[index]
        if character and character.noun and character.name and not character.phrase:
            choices = self.names[character.noun]
            if character.noun not in _GENDERED and rng.random() < 0.5:
                choices = self.all_names
            if len(choices) > 4 and rng.random() < mixture.renamed_share:
                name = rng.choice(choices)
                if name not in story:
                    story, character = rename(story, character, name)
        return [Message("user", make_request(character, rng)), Message("assistant", story)]

    def _small_talk(self, rng: Random) -> list[Message]:
        return rng.choice(self.facts if rng.random() < 0.2 else self.persona)

    def _conversation(self, final: list[Message], rng: Random) -> Document:
        messages = list(final)
        while rng.random() < 0.25:
            messages = self._small_talk(rng) + messages
        if rng.random() < 0.12:
            messages = [Message("system", rng.choice(_SYSTEM)), *messages]
        return chat_document(messages)

    def shard_documents(self, shard: int, mixture: MixtureConfig) -> list[Document]:
        """Return the documents of one shard in random order; a function of seed and arguments.

        Successive shards walk through the stories; each pass over all of them is shuffled anew.
        """
        rng = Random(f"{self.seed}/{shard}")
        documents = []
        for position in range(shard * _STORIES_PER_SHARD, (shard + 1) * _STORIES_PER_SHARD):
            index = self._story_at(position)
            if rng.random() < mixture.story_chat_share:
                documents.append(self._conversation(self._story_chat(index, mixture, rng), rng))
            else:
                documents.append(raw_document(self.stories[index]))
        num_books = round(mixture.picturebooks_per_story * _STORIES_PER_SHARD)
        documents += [raw_document(rng.choice(self.picture_books)) for _ in range(num_books)]
        num_talks = round(mixture.talks_per_story * _STORIES_PER_SHARD)
        documents += [self._conversation(self._small_talk(rng), rng) for _ in range(num_talks)]
        rng.shuffle(documents)
        return documents

    def _story_at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.stories))
        if self._order[0] != epoch:
            order = list(range(len(self.stories)))
            Random(f"{self.seed}/epoch/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1][offset]

    def shard_rows(
        self, shard: int, mixture: MixtureConfig, row_tokens: int, padding: int
    ) -> list[tuple[list[int], list[int]]]:
        """Return the packed rows of one shard in random order: (inputs, targets) per row."""
        documents = self.shard_documents(shard, mixture)
        pieces = [piece for document in documents for piece in document.pieces]
        encoded = iter(self.encode([text for text, _ in pieces]))

        def tokenised() -> Iterator[tuple[list[int], list[bool]]]:
            for document in documents:
                ids: list[int] = []
                counts: list[bool] = []
                for _, trained in document.pieces:
                    piece = next(encoded)
                    ids += piece
                    counts += [trained] * len(piece)
                yield ids, counts

        rows = pack(tokenised(), row_tokens, padding)
        Random(f"{self.seed}/{shard}/rows").shuffle(rows)
        return rows


def bpe_training_texts(directory: Path) -> Iterator[str]:
    """Yield the texts the tokenizer is trained on: the stories and the one persona's small talk."""
    for record in read_records(directory / "tinystories.train.jsonl.xz"):
        yield record["text"]
    for record in read_records(directory / "picturebooks.train.jsonl.xz"):
        yield record["text"]
    for record in read_records(directory / "smalltalk.train.jsonl.xz"):
        if is_small_talk(record):
            yield record["text"] + "\n" + GENERATION_PROMPT

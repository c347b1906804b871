"""Tokens of a choice to pieces of text, and the pure parts of the conversion, against plain definitions."""

from __future__ import annotations

import hashlib
import struct

from byte_front import EOS, VOCAB_SIZE, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from scripted_pool import scored

from tritserve.api.answer import ChoiceText, Piece
from tritserve.api.convert import StopRules, choice_seed
from tritserve.api.logprobs import token_key
from tritserve.api.parameters import ignored_headers
from tritserve.text.detokenizer import Detokenizer

TOKENIZER = byte_tokenizer()
TOKENS = st.lists(st.sampled_from([*b"aab..", 0xC3, 0xA9, 0xF0, 0x9F, 0x90, 0x88, 258, 259, 260]), max_size=30)
STOPS = st.lists(st.sampled_from(["a.", ".", "ab", "aab", "é", "Hello", "\ufffd", "b."]), max_size=3, unique=True)


def run(tokens: list[int], rules: StopRules, finish: str | None) -> list[Piece]:
    """Feed tokens one by one, the last with ``finish``, as far as the choice goes."""
    text = ChoiceText(0, Detokenizer(TOKENIZER), rules, keep_tokens=True)
    pieces = []
    for index, token in enumerate(tokens):
        piece = text.feed(scored(token), finish if index == len(tokens) - 1 else None)
        pieces += [piece] if piece else []
        if text.is_finished:
            return pieces
    return [*pieces, text.end("length")]


def cut_at_stop(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Return a text up to the match that ends first, the longest of those: the plain definition."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(TOKENS, STOPS, st.booleans(), st.sampled_from(["length", None]))
def test_pieces_joined_are_the_text_up_to_the_stop(
    tokens: list[int], stops: list[str], include: bool, finish: str | None
) -> None:
    pieces = run(tokens, StopRules(tuple(stops), include), finish)
    expected, matched = cut_at_stop(TOKENIZER.decode(tokens), stops, include)
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish == ("length" if matched is None else "stop")
    assert pieces[-1].stop_reason == matched


@given(TOKENS, STOPS, st.booleans())
def test_every_token_is_shown_once_in_order_and_not_before_its_text(
    tokens: list[int], stops: list[str], include: bool
) -> None:
    pieces = run(tokens, StopRules(tuple(stops), include), None)
    placed = [token for piece in pieces for token in piece.tokens]
    assert [token.scored.token for token in placed] == tokens[: len(placed)]
    assert len(placed) == len(tokens) or pieces[-1].finish == "stop"
    num_shown = 0
    offsets = [0]
    for piece in pieces:
        num_shown += len(piece.text)
        offsets += [token.offset for token in piece.tokens]
        assert offsets[-1] <= num_shown
    assert offsets == sorted(offsets)


@given(TOKENS, STOPS, st.integers(0, 10))
def test_min_tokens_shield_their_text_from_stop_strings(tokens: list[int], stops: list[str], min_tokens: int) -> None:
    pieces = run(tokens, StopRules(tuple(stops), min_tokens=min_tokens), None)
    shielded = Detokenizer(TOKENIZER)
    head = "".join(map(shielded.feed, tokens[:min_tokens]))
    if len(tokens) <= min_tokens:
        head += shielded.flush()
    expected, _ = cut_at_stop(TOKENIZER.decode(tokens)[len(head) :], stops, include=False)
    assert "".join(piece.text for piece in pieces) == head + expected


def test_an_end_token_has_no_text_but_counts() -> None:
    text = ChoiceText(0, Detokenizer(TOKENIZER), StopRules(eos_ids=frozenset({EOS})), keep_tokens=True)
    assert text.feed(scored(0xF0), None) is None
    last = text.feed(scored(EOS), "stop")
    assert last is not None
    assert (last.text, last.finish, last.stop_reason, len(last.tokens), text.num_tokens) == (
        "\ufffd",
        "stop",
        None,
        2,
        2,
    )


def test_nothing_allowed_to_follow_is_a_stop_that_says_so() -> None:
    text = ChoiceText(0, Detokenizer(TOKENIZER), StopRules(), keep_tokens=False)
    last = text.end("no_token")
    assert (last.finish, last.stop_reason) == ("stop", "no_token")


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1))
def test_choice_seeds_follow_the_written_rule(seed: int, index: int) -> None:
    digest = hashlib.sha256(b"tritserve-choice" + struct.pack("<QI", seed, index)).digest()
    assert choice_seed(seed, index) == struct.unpack("<Q", digest[:8])[0]
    assert choice_seed(seed, 0) == seed


@given(st.binary(max_size=6))
def test_token_keys_are_text_or_spelt_bytes(data: bytes) -> None:
    key = token_key(data)
    try:
        assert key == data.decode()
    except UnicodeDecodeError:
        assert key.removeprefix("bytes:") == "".join(f"\\x{byte:02x}" for byte in data)


@given(st.lists(st.text(max_size=70), max_size=40))
def test_ignored_names_can_never_break_a_header(names: list[str]) -> None:
    for value in ignored_headers(names).values():
        parts = value.split(", ")
        assert len(parts) <= 17
        assert all(part.isascii() and part.isprintable() and len(part) <= 64 for part in parts)
        count = int(parts.pop()) if parts[-1].startswith("+") else 0
        assert len(parts) + count == len(set(names))


def test_the_test_tokenizer_is_what_these_tests_take_it_for() -> None:
    assert TOKENIZER.vocab_size == VOCAB_SIZE
    assert TOKENIZER.encode("é<eos>\n") == [0xC3, 0xA9, EOS, 10]
    assert [TOKENIZER.token_bytes(token) for token in range(256)] == [bytes([byte]) for byte in range(256)]

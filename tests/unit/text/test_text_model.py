"""What the routes ask of a model's text: prompts, chats, a message to go on with, and bounds."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from tritserve.errors import InvalidRequest, ModelFileError
from tritserve.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tritserve.text.model_text import ModelText

TRIMMING = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
KEEPING = TRIMMING.replace(" | trim", "")


@pytest.mark.parametrize(
    ("template", "content", "end"),
    [
        (TRIMMING, "Once upon", "assistant: Once upon"),
        (TRIMMING, "Once upon ", "assistant: Once upon"),
        (KEEPING, "Once upon ", "assistant: Once upon "),
        (KEEPING, "", "assistant: "),
        (KEEPING, "<|eot_id|>\ufdd00\ufdd1", "assistant: <|eot_id|>\ufdd00\ufdd1"),
    ],
)
def test_final_message_stays_open(make_text: Any, template: str, content: str, end: str) -> None:
    text = make_text(template)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]

    shown = text.render_chat(messages, continue_final_message=True)
    ids = text.encode_chat(messages, continue_final_message=True)

    assert shown == "user: Hi<|eot_id|>" + end
    assert [token for token in ids if token in text.tokenizer.special_ids] == [1279]
    assert messages[-1]["content"] == content


@pytest.mark.parametrize("messages", [[{"role": "user", "content": "x"}], [{"role": "assistant", "content": None}]])
def test_only_the_assistants_text_can_be_continued(make_text: Any, messages: list[dict[str, object]]) -> None:
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        make_text(KEEPING).encode_chat(messages, continue_final_message=True)


def test_template_that_hides_the_final_message_cannot_continue_it(make_text: Any) -> None:
    with pytest.raises(InvalidRequest, match="final message"):
        make_text("{{ messages[0].role }}").encode_chat(
            [{"role": "assistant", "content": "x"}], continue_final_message=True
        )


def test_model_without_template_says_where_to_go(make_text: Any) -> None:
    text = make_text(None)

    assert not text.has_chat_template
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        text.encode_chat([{"role": "user", "content": "x"}])


def test_no_messages_are_refused(make_text: Any) -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        make_text(KEEPING).encode_chat([])


@pytest.mark.parametrize(
    "content", ["x", "日本語" * 50, "\U0001f99c" * 40, "a" * 300, " " * 200, "<|reserved_special_token_0|>" * 9]
)
def test_a_longer_prompt_than_most_chars_cannot_fit(make_text: Any, content: str) -> None:
    text = make_text(None)
    ids = text.encode_prompt(content)

    assert len(content) <= text.most_chars(len(ids))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"null", b'{"model": {"type": "BPE"}}', b'{"decoder": 1}', b"[" * 100_000],
    ids=lambda content: ascii(content[:20]),
)
def test_damaged_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        Tokenizer(content)


def test_tokenizer_of_an_unknown_kind_is_refused(tokenizer_json: bytes) -> None:
    description = json.loads(tokenizer_json)
    description["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}

    with pytest.raises(ModelFileError, match="decoder"):
        Tokenizer(json.dumps(description).encode())


def test_template_whose_specials_lose_their_marks_is_reported(make_text: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make_text(KEEPING)
        assert not caplog.records
        make_text("{{ messages[0].content }}{{ eos_token.swapcase().swapcase() }}")

    assert [record.message for record in caplog.records] == ["chat_template_specials_lost"]


HOSTILE = {
    "one letter": "a",
    "spaces": " ",
    "spaces and a letter": "   x",
    "line ends": "\r\n",
    "digits": "7",
    "combining marks": "\u0301",
    "joiners": "\u200d",
    "punctuation": "!",
    "special tokens": "<|eot_id|>",
    "halves of special tokens": "<|eot_id",
    "openings": "<",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_tokenizing_hostile_text_is_far_from_quadratic(make_text: Any, unit: str) -> None:
    """Sixteen times the text may take at most 64 times as long: n log n is 21, quadratic 256."""
    text: ModelText = make_text(KEEPING)

    def seconds(num_chars: int) -> float:
        content = (unit * num_chars)[:num_chars]
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            text.encode_prompt(content)
            text.encode_chat([{"role": "user", "content": content}])
            best = min(best, time.process_time() - start)
        return best

    assert seconds(1 << 17) < 64 * seconds(1 << 13)

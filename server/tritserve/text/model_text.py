"""All text of one model: its tokenizer, chat template and special tokens behind one object."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from tritserve.errors import InvalidRequest
from tritserve.text.chat_template import ChatTemplate
from tritserve.text.detokenizer import Detokenizer
from tritserve.text.tokenizer import Tokenizer
from tritserve.text.tools import OPEN, Function, plain_messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritserve.text.trusted_text import TrustedText

logger = logging.getLogger(__name__)


class ModelText:
    """Prompts to token ids, token ids to text. Immutable, safe to use from several threads."""

    def __init__(
        self,
        tokenizer_json: bytes,
        *,
        chat_template: str | None,
        bos_token_id: int | None,
        bos_text: str | None,
        eos_text: str | None,
        add_bos: bool,
    ) -> None:
        """Read a model's tokenizer and template; prompts begin with ``bos_token_id`` if ``add_bos``. Raises ModelFileError."""
        self.tokenizer = Tokenizer(tokenizer_json, bos_token_id=bos_token_id if add_bos else None)
        self.chat_template = chat_template
        self._template = (
            None if chat_template is None else ChatTemplate(chat_template, bos_text=bos_text, eos_text=eos_text)
        )
        self._knows_tools = self._template is not None and _knows_tools(self._template)
        if self._template is not None:
            self._look_for_lost_specials()

    def _look_for_lost_specials(self) -> None:
        """Warn if the template makes special tokens by an operation that forgets who wrote them: they would be read as plain text."""
        try:
            text = self.render_chat([{"role": "user", "content": "Hello"}])
        except InvalidRequest:
            return
        if self.tokenizer.encode_trusted(text) != self.tokenizer.encode(text):
            logger.warning("chat_template_specials_lost")

    @property
    def has_chat_template(self) -> bool:
        """Whether ``encode_chat`` can answer."""
        return self._template is not None

    def most_chars(self, num_tokens: int) -> int:
        """Return how many characters of a prompt can fit in ``num_tokens``: refuse longer ones before they cost anything.

        A token covers at most the bytes of the longest one, a character at least one byte.
        """
        return num_tokens * self.tokenizer.max_piece_bytes

    def encode_prompt(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Encode a text prompt, BOS first where the model has one. With ``parse_special`` the spelling of a special token becomes it."""
        return self._with_bos(self.tokenizer.encode(text, parse_special=parse_special))

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, object] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> list[int]:
        """Encode a conversation through the model's template, BOS first where the model has one and the template did not write it.

        ``tools`` are functions as ``text.tools`` describes them; messages may hold calls and results. What the messages hold never becomes
        a special token. With ``continue_final_message`` the last message, the assistant's, is left
        open for the model to go on, and no generation prompt is added. Raises InvalidRequest if the model has no template or it refuses.
        """
        text = self.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
            tools=tools,
        )
        return self._with_bos(self.tokenizer.encode_trusted(text))

    def render_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, object] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> TrustedText:
        """Return what ``encode_chat`` encodes. Raises InvalidRequest."""
        if self._template is None:
            raise InvalidRequest(
                "This model has no chat template, so it cannot take messages; send a text prompt to /v1/completions instead.",
                param="messages",
                code="no_chat_template",
            )
        if not messages:
            raise InvalidRequest("messages must hold at least one message", param="messages")
        if not self._knows_tools:
            messages, tools = plain_messages(messages, tools or ()), None
        if not continue_final_message:
            return self._template.render(
                messages, add_generation_prompt=add_generation_prompt, template_kwargs=template_kwargs, tools=tools
            )
        opened, tag = _tag_final_message(messages)
        text = self._template.render(opened, add_generation_prompt=False, template_kwargs=template_kwargs, tools=tools)
        return _cut_at_tag(text, tag)

    def detokenizer(self, *, at_start: bool = False) -> Detokenizer:
        """Return a new detokenizer for one choice. ``at_start``: no text comes before, so a leading space that only marks the beginning of
        a sentencepiece text is dropped."""
        return Detokenizer(self.tokenizer, at_start=at_start)

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def _knows_tools(template: ChatTemplate) -> bool:
    """Whether the template tells a model of its tools, and to call them as we read it."""
    probe = Function("probe_of_tools", "probe")
    try:
        text = template.render([{"role": "user", "content": "Hello"}], tools=[probe.described()])
    except InvalidRequest:
        return False
    return probe.name in text and OPEN in text


def _tag_final_message(messages: Sequence[Mapping[str, object]]) -> tuple[list[Mapping[str, object]], str]:
    """Return the messages with a tag at the end of the last one's content, and the tag, which no content holds."""
    final = messages[-1]
    content = final.get("content")
    if final.get("role") != "assistant" or not isinstance(content, str):
        raise InvalidRequest(
            "continue_final_message needs a last message of the role assistant with text",
            param="continue_final_message",
        )
    texts = [str(message.get("content")) for message in messages]
    tags = (f"\ufdd0{number}\ufdd1" for number in itertools.count())
    tag = next(tag for tag in tags if not any(tag in text for text in texts))
    return [*messages[:-1], {**final, "content": content + tag + " "}], tag


def _cut_at_tag(text: TrustedText, tag: str) -> TrustedText:
    """Return the rendering up to the tag; white space before it goes if the template trimmed the space after it."""
    at = text.rfind(tag)
    if at < 0:
        raise InvalidRequest(
            "The model's chat template does not show the final message as it is", param="continue_final_message"
        )
    kept = text[:at]
    return kept if text[at + len(tag) : at + len(tag) + 1] == " " else kept.rstrip()

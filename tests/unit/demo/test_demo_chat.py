"""The chat format: what is rendered is what the checkpoint's template renders."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tritserve.demo.chat import CHAT_TEMPLATE, Message, parse_dialogue, render

TALK = [Message("system", " Be brief. "), Message("user", "How are you?"), Message("assistant", "Fine!\n")]


def test_render_follows_the_shape_of_2b4t() -> None:
    text = render(TALK[:2], add_generation_prompt=True)
    assert text == "System: Be brief.<|eot_id|>User: How are you?<|eot_id|>Assistant: "


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_render_equals_the_jinja_template(count: int, add_generation_prompt: bool) -> None:
    template = ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    messages = [{"role": m.role, "content": m.content} for m in TALK[:count]]
    expected = template.render(messages=messages, add_generation_prompt=add_generation_prompt)
    assert render(TALK[:count], add_generation_prompt=add_generation_prompt) == expected


def test_dialogue_lines_become_messages_and_other_lines_continue_them() -> None:
    text = "User: Hi: there\nAssistant: Hello.\nNice day.\nUser: Bye"
    assert parse_dialogue(text) == [
        Message("user", "Hi: there"),
        Message("assistant", "Hello.\nNice day."),
        Message("user", "Bye"),
    ]

"""The chat format of the demo model: the shape of BitNet b1.58 2B4T's own template."""

from __future__ import annotations

from dataclasses import dataclass

from tritserve.demo.config import END_OF_TURN

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
GENERATION_PROMPT = "Assistant: "


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def render(messages: list[Message], *, add_generation_prompt: bool) -> str:
    """Render messages as CHAT_TEMPLATE does; no begin-of-text token is added."""
    turns = [f"{m.role.capitalize()}: {m.content.strip()}{END_OF_TURN}" for m in messages]
    return "".join(turns) + (GENERATION_PROMPT if add_generation_prompt else "")


def parse_dialogue(text: str) -> list[Message]:
    """Split a corpus record of ``User: ...`` and ``Assistant: ...`` lines into messages.

    A line without such a prefix continues the message before it.
    """
    messages: list[Message] = []
    for line in text.split("\n"):
        role, colon, content = line.partition(": ")
        if colon and role in ("User", "Assistant"):
            messages.append(Message(role.lower(), content))
        elif messages:
            last = messages[-1]
            messages[-1] = Message(last.role, f"{last.content}\n{line}")
    return messages

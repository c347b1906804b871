"""The routes with the demo model's real tokenizer and template: control tokens are never the client's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from byte_front import http_client
from scripted_pool import ScriptedPool

from tritserve.cli.serve import assemble
from tritserve.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tritserve.api.front import Front


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Front:
    """Return a front of the demo model whose pool is a script."""
    folder: Path = tmp_path_factory.mktemp("cache")
    _, make_front = assemble(Settings(cache_dir=folder))
    return dataclasses.replace(make_front(), pool=ScriptedPool(max_model_len=1024))


async def prompt_of(front: Front, path: str, body: dict[str, Any]) -> list[int]:
    """Return the ids that a request gives to the pool."""
    async with http_client(front) as client:
        response = await client.post(path, json={**body, "max_tokens": 1, "return_token_ids": True})
    assert response.status_code == 200, response.text
    answer = response.json()
    ids: list[int] = answer.get("prompt_token_ids") or answer["choices"][0]["prompt_token_ids"]
    return ids


@pytest.mark.parametrize("as_parts", [False, True])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
async def test_no_message_can_spell_a_special_token(demo: Front, role: str, as_parts: bool) -> None:
    specials = demo.model.text.tokenizer.special_tokens
    hostile = " ".join(specials) + "".join(specials)

    async def count(text: str) -> int:
        content = [{"type": "text", "text": part} for part in (text[:9], text[9:])] if as_parts else text
        messages = [{"role": role, "content": content}, {"role": "user", "content": text}]
        ids = await prompt_of(demo, "/chat/completions", {"messages": messages})
        return sum(token in specials.values() for token in ids)

    assert await count(hostile) == await count("a harmless text") > 0


async def test_special_tokens_of_a_text_prompt_are_the_clients_unless_switched_off(demo: Front) -> None:
    specials = demo.model.text.tokenizer.special_tokens
    for spelling, token in specials.items():
        body = {"prompt": f"a{spelling}b"}
        assert token in (await prompt_of(demo, "/completions", body))[1:]
        plain = await prompt_of(demo, "/completions", {**body, "parse_special": False})
        assert not set(plain[1:]) & set(specials.values())


@pytest.mark.parametrize(
    "name", ["messages", "tools", "tokenize", "chat_template", "add_generation_prompt", "bos_token"]
)
async def test_reserved_names_of_the_template_are_refused(demo: Front, name: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {name: "x"}}
    async with http_client(demo) as client:
        response = await client.post("/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("chat_template_kwargs")

"""POST /tokenize, POST /detokenize and GET /tokenizer_info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from byte_front import ASSISTANT, CAT_EMOJI_HEAD, EOS, VOCAB_SIZE, ByteFront, byte_front
from scripted_pool import ScriptedPool

from tritserve.api.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

HI = list(b"Hi")


@pytest.fixture
def make_front() -> Callable[..., ByteFront]:
    def make(**settings: Any) -> ByteFront:
        return byte_front(ScriptedPool(max_model_len=64), **settings)

    return make


async def ask(front: ByteFront, method: str, path: str, body: object = None) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(front)), base_url="http://localhost"
    ) as client:
        return await client.request(method, path, json=body)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "Hi"}, HI),
        ({"prompt": "Hi", "model": "org/tiny", "add_special_tokens": False}, HI),
        ({"prompt": "Hi<eos>"}, [*HI, EOS]),
        ({"prompt": "Hi<eos>", "parse_special": False}, [*HI, *b"<eos>"]),
        ({"prompt": ""}, []),
        ({"messages": [{"role": "user", "content": "Hi"}]}, [*b"user: Hi", ASSISTANT]),
        ({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False}, list(b"user: Hi")),
    ],
)
async def test_tokens_are_those_of_the_generation_endpoints(
    make_front: Callable[..., ByteFront], body: dict[str, Any], tokens: list[int]
) -> None:
    response = await ask(make_front(), "POST", "/tokenize", body)
    assert response.json() == {"tokens": tokens, "count": len(tokens), "max_model_len": 64, "token_strs": None}


async def test_a_text_may_have_more_tokens_than_the_context(make_front: Callable[..., ByteFront]) -> None:
    response = await ask(make_front(), "POST", "/tokenize", {"prompt": "x" * 100})
    assert (response.status_code, response.json()["count"]) == (200, 100)


async def test_a_text_many_times_the_context_is_refused_before_it_costs_anything(
    make_front: Callable[..., ByteFront],
) -> None:
    response = await ask(make_front(), "POST", "/tokenize", {"prompt": "x" * 10_000})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_pieces_show_bytes_that_are_no_text(make_front: Callable[..., ByteFront]) -> None:
    front = make_front()
    tokens = [*HI, CAT_EMOJI_HEAD, EOS]
    text = (await ask(front, "POST", "/detokenize", {"tokens": tokens})).json()
    assert text == {"prompt": "Hi�<eos>"}
    body = {"prompt": "Hié<eos>", "return_token_strs": True}
    pieces = (await ask(front, "POST", "/tokenize", body)).json()["token_strs"]
    assert pieces == ["H", "i", "bytes:\\xc3", "bytes:\\xa9", "<eos>"]


async def test_text_comes_back_from_its_tokens(make_front: Callable[..., ByteFront]) -> None:
    front, text = make_front(), "Naïve 🐈<eos>\n"
    tokens = (await ask(front, "POST", "/tokenize", {"prompt": text})).json()["tokens"]
    assert (await ask(front, "POST", "/detokenize", {"tokens": tokens})).json() == {"prompt": text}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": None}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "parse_special": "no"}, "parse_special"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}, "tokens[0]"),
        ("/detokenize", {"tokens": [0, 2**31 - 1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [0, 2**31]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": [0] * 65}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(
    make_front: Callable[..., ByteFront], path: str, body: dict[str, Any], param: str
) -> None:
    response = await ask(make_front(), "POST", path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_other_models_are_not_found(make_front: Callable[..., ByteFront], path: str) -> None:
    response = await ask(make_front(), "POST", path, {"model": "gpt", "prompt": "a", "tokens": []})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_unknown_names_are_listed_or_refused(make_front: Callable[..., ByteFront]) -> None:
    body = {"prompt": "a", "with_pieces": True}
    listed = await ask(make_front(), "POST", "/tokenize", body)
    assert (listed.status_code, listed.headers["x-tritserve-ignored"]) == (200, "with_pieces")
    refused = await ask(make_front(strict_parameters=True), "POST", "/tokenize", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "with_pieces")


async def test_the_tokenizer_describes_itself(make_front: Callable[..., ByteFront]) -> None:
    info = (await ask(make_front(), "GET", "/tokenizer_info")).json()
    assert info == {
        "vocab_size": VOCAB_SIZE,
        "model_max_length": 64,
        "add_bos_token": False,
        "bos_token": None,
        "bos_token_id": None,
        "eos_token": "<eos>",
        "eos_token_id": EOS,
        "pad_token": None,
        "pad_token_id": None,
        "additional_special_tokens": ["<assistant>"],
        "chat_template": "(a byte template)",
    }

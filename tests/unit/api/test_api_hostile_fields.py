"""Every numeric field with every value that has broken a server like this one: 400 exactly where the field's range or type excludes it."""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import pytest
from byte_front import VOCAB_SIZE, byte_front, http_client
from scripted_pool import ScriptedPool

INT32 = 2**31 - 1
# Field -> (least, most, whole numbers only)
SHARED: dict[str, tuple[float, float, bool]] = {
    "n": (1, 8, True),
    "temperature": (0, 2, False),
    "top_p": (0, 1, False),
    "top_k": (-1, INT32, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (0.01, 100, False),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "seed": (-(2**63), 2**63 - 1, True),
    "truncate_prompt_tokens": (1, INT32, True),
    "priority": (-100, 0, True),
}
CHAT = SHARED | {
    "max_tokens": (1, INT32, True),
    "max_completion_tokens": (1, INT32, True),
    "top_logprobs": (0, 20, True),
}
TEXT = SHARED | {
    "max_tokens": (1, INT32, True),
    "max_completion_tokens": (1, INT32, True),
    "logprobs": (0, 20, True),
    "timeout": (math.nextafter(0, 1), 600, False),
    "min_tokens": (0, 16, True),
    "best_of": (1, 1, True),
}
NUMBERS = [
    "0",
    "-1",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1e308",
    "-1e308",
    "0.5",
]
NEVER = ["NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "[]", "{}", '"NaN"']


def cases(fields: dict[str, tuple[float, float, bool]]) -> list[Any]:
    """Return (field, literal, whether it is in range)."""
    found = []
    for name, (least, most, whole) in fields.items():
        borders = [least, most, least - 1, most + 1]
        literals = [*NUMBERS, *(repr(int(b) if whole else float(b)) for b in borders)]
        for literal in dict.fromkeys(literals):
            value = float(literal) if any(c in literal for c in ".e") else int(literal)
            good = least <= value <= most and (not whole or isinstance(value, int))
            found.append(pytest.param(name, literal, good, id=f"{name}={literal}"))
        found += [pytest.param(name, literal, False, id=f"{name}={literal}") for literal in NEVER]
    return found


async def status_of(path: str, json: str) -> tuple[int, float, Any]:
    """Send JSON text; return status, CPU seconds and the error."""
    pool = ScriptedPool(max_model_len=64)
    async with http_client(byte_front(pool)) as client:
        gc.disable()  # what other tests left behind would be looked through in this one's time
        try:
            begun = time.thread_time()
            response = await client.post(path, content=json, headers={"content-type": "application/json"})
            seconds = time.thread_time() - begun
        finally:
            gc.enable()
    if response.status_code != 200:
        assert not pool.requests
    return response.status_code, seconds, response.json().get("error")


@pytest.mark.parametrize(("name", "literal", "good"), cases(CHAT))
async def test_chat_field_is_refused_exactly_out_of_range(name: str, literal: str, good: bool) -> None:
    extra = ', "logprobs": true' if name == "top_logprobs" else ""
    json = f'{{"messages": [{{"role": "user", "content": "Hi"}}], "{name}": {literal}{extra}}}'
    status, seconds, error = await status_of("/chat/completions", json)
    assert status == (200 if good else 400), error
    if not good:
        assert error["param"] in (name, None)
        assert literal in NEVER[:4] or error["param"] == name
        assert seconds < 0.05


@pytest.mark.parametrize(("name", "literal", "good"), cases(TEXT))
async def test_text_field_is_refused_exactly_out_of_range(name: str, literal: str, good: bool) -> None:
    status, _, error = await status_of("/completions", f'{{"prompt": "Hi", "{name}": {literal}}}')
    assert status == (200 if good else 400), error


@pytest.mark.parametrize("name", ["stop_token_ids", "allowed_token_ids"])
@pytest.mark.parametrize(
    ("literal", "good"),
    [
        ("[0]", True),
        (f"[{VOCAB_SIZE - 1}]", True),
        (f"[{VOCAB_SIZE}]", False),
        ("[-1]", False),
        ("[2147483648]", False),
        ("[9223372036854775808]", False),
        ("[1.0]", False),
        ("[true]", False),
        ('["1"]', False),
        ("[null]", False),
        ("3", False),
        ('"3"', False),
        ("{}", False),
        ("null", True),
    ],
)
async def test_id_lists_hold_ids_of_the_vocabulary(name: str, literal: str, good: bool) -> None:
    status, _, error = await status_of("/completions", f'{{"prompt": "Hi", "{name}": {literal}}}')
    assert status == (200 if good else 400), error


@pytest.mark.parametrize(
    ("literal", "good"),
    [
        ('{"0": 100}', True),
        ('{"0": -100.0}', True),
        ('{"0": 100.1}', False),
        ('{"0": "1"}', False),
        ('{"0": true}', False),
        ('{"1e1": 1}', False),
        ('{"": 1}', False),
        ('{"٣": 1}', False),
        ('{" 1": 1}', False),
        ('{"0": 1e308}', False),
        ('{"99999999999999999999": 1}', False),
        ('{"0": NaN}', False),
        ("[]", False),
        ("{}", True),
        ('{"0": null}', False),
    ],
)
async def test_logit_bias_maps_ids_to_bounded_numbers(literal: str, good: bool) -> None:
    status, _, error = await status_of("/completions", f'{{"prompt": "Hi", "logit_bias": {literal}}}')
    assert status == (200 if good else 400), error


@pytest.mark.parametrize("name", ["stream", "echo", "ignore_eos", "return_token_ids", "include_stop_str_in_output"])
@pytest.mark.parametrize("literal", ["0", "1", '"true"', "[]", "1e308"])
async def test_flags_are_true_or_false(name: str, literal: str) -> None:
    status, _, error = await status_of("/completions", f'{{"prompt": "Hi", "{name}": {literal}}}')
    assert (status, error["param"]) == (400, name)


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "tokenize", "add_generation_prompt"])
async def test_template_arguments_reach_the_template_as_they_are(name: str) -> None:
    """Reserved names are the template's to refuse: it alone knows them."""
    front = byte_front(ScriptedPool())
    body = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {name: True}}
    async with http_client(front) as client:
        await client.post("/chat/completions", json=body)
    assert front.text.chats[0]["template_kwargs"] == {name: True}

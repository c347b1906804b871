"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import pytest
from byte_front import byte_front, http_client
from scripted_pool import ScriptedPool


async def test_every_name_is_listed_with_the_fields_of_both_vendors() -> None:
    async with http_client(byte_front(ScriptedPool(max_model_len=77))) as client:
        found = (await client.get("/models")).json()
    assert {key: found[key] for key in ("object", "first_id", "last_id", "has_more")} == {
        "object": "list",
        "first_id": "tiny",
        "last_id": "org/tiny",
        "has_more": False,
    }
    assert [card["id"] for card in found["data"]] == ["tiny", "org/tiny"]
    assert found["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "tritserve",
        "type": "model",
        "display_name": "tiny",
        "created_at": "2023-11-14T22:13:20Z",
        "root": "tiny",
        "parent": None,
        "max_model_len": 77,
    }


@pytest.mark.parametrize("path", ["org/tiny", "org%2Ftiny"])
async def test_an_id_may_hold_slashes(path: str) -> None:
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.get(f"/models/{path}")
    assert (response.status_code, response.json()["id"]) == (200, "org/tiny")


async def test_an_unknown_model_is_not_found_and_not_repeated() -> None:
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.get("/models/%3Cscript%3E")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "script" not in response.text

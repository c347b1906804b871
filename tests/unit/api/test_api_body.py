"""Bytes of a body to a wire model."""

from __future__ import annotations

import json
import time

import pytest
from byte_front import byte_front, http_client
from hypothesis import given
from hypothesis import strategies as st
from scripted_pool import ScriptedPool

from tritserve.api.body import param_name, parse_json
from tritserve.errors import InvalidRequest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth(value: object) -> int:
    """Return the nesting of a JSON value: the plain definition."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.integers(1, 6), st.booleans())
def test_a_body_is_refused_exactly_when_it_nests_deeper(value: dict[str, object], limit: int, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth(value) > limit:
        with pytest.raises(InvalidRequest, match="nests deeper"):
            parse_json(data, limit)
    else:
        assert parse_json(data, limit) == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 01}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} {}',
        b"\xff",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": "\x00"}',
        b"[]",
        b"1",
        b'"a"',
        b"null",
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(data, 64)


@pytest.mark.parametrize(
    "pattern", [b"[]", b"{}", b"1", b'""', b'"\\\\"', b"[" * 60 + b"]" * 60, b'"[",', b'"\\"["', b'{"a":1}']
)
def test_bodies_of_very_many_parts_are_refused_before_they_cost_anything(pattern: bytes) -> None:
    """Four megabytes must not hold the event loop: the bound on time is generous, reading them took up to a second."""
    unit = pattern.rstrip(b",") + b","
    data = b'{"a": [' + unit * (4_000_000 // len(unit)) + b"0]}"
    begun = time.perf_counter()
    with pytest.raises(InvalidRequest, match="too many"):
        parse_json(data, 64)
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("text", ["[{", ":", ",", '"', "\\", '\\"', '\\"[{:,', "\n"])
def test_parts_are_not_counted_in_texts(text: str) -> None:
    data = {"prompt": text * (1_000_000 // len(text)), "n": 1}
    assert parse_json(json.dumps(data).encode(), 64) == data


def test_the_largest_requests_that_the_limits_allow_are_read() -> None:
    for body in (
        {"prompt": [[4000] * 4000] * 64},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 5}] * 1024, "max_tokens": 1},
        {"prompt": "x", "logit_bias": {str(token): -100 for token in range(1024)}},
    ):
        assert parse_json(json.dumps(body).encode(), 64) == body


@pytest.mark.parametrize(
    ("location", "name"),
    [
        (("n",), "n"),
        (("messages", 3, "content", 0, "text"), "messages[3].content[0].text"),
        (("logit_bias", "5"), "logit_bias.5"),
        (("logit_bias", "<b>\r\n"), "logit_bias.?"),
        (("x" * 65,), "?"),
        ((), ""),
    ],
)
def test_places_are_named_as_openai_does(location: tuple[int | str, ...], name: str) -> None:
    assert param_name(location) == name


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
        (None, 415),
    ],
)
async def test_bodies_must_be_declared_as_json(media_type: str | None, status: int) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.post("/completions", content=b'{"prompt": "Hi"}', headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(("encoding", "status"), [("identity", 200), ("gzip", 415), ("br, identity", 415)])
async def test_compressed_bodies_are_refused_by_name(encoding: str, status: int) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.post("/completions", content=b'{"prompt": "Hi"}', headers=headers)
    assert response.status_code == status
    assert status == 200 or "Content-Encoding" in response.json()["error"]["message"]


async def test_errors_do_not_repeat_what_was_sent() -> None:
    async with http_client(byte_front(ScriptedPool())) as client:
        response = await client.post("/completions", json={"prompt": "Hi", "temperature": "s3cret", "n": {"s3cret": 1}})
    assert response.status_code == 400
    assert "s3cret" not in response.text

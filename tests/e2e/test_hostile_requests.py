"""Requests that mean harm: each gets a clear answer of 4xx, and the server neither dies nor grows."""

from __future__ import annotations

import itertools
import json
import re
import string
from typing import TYPE_CHECKING, Any

import pytest
from live_answers import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from live_server import LiveServer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    TEXT: {"prompt": "Hi", "max_tokens": 2},
}
Cell = tuple[str, int]
JSON = {"content-type": "application/json"}
# What a body must never show of the machine it runs on: paths, addresses, tracebacks, names of our modules and their exceptions.
LEAKS = re.compile(
    r"/(usr|home|root|tmp|proc|work|opt|var|etc)/|0x[0-9a-f]{6,}|Traceback|File \"|line \d+|tritserve[./]|\.py\b|"
    r"\b(pydantic|msgspec|starlette|fastapi|jinja2|asyncio)\b|\b[A-Z][A-Za-z]*(Error|Exception)\b"
)
_VALUES = (
    "0 -1 1 2 8 9 20 21 100 101 -100 -101 2147483647 2147483648 4294967296 9223372036854775807 9223372036854775808 "
    "18446744073709551616 -9223372036854775808 -9223372036854775809 1e308 -1e308 1e309 5e-324 0.5 -0.0 NaN Infinity -Infinity "
    '1e999999999 "1" true false [] {} [1] "" "NaN" null'
)
_NAMES = {
    CHAT: (
        "n best_of seed temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty logit_bias "
        "allowed_token_ids stop stop_token_ids include_stop_str_in_output min_tokens ignore_eos truncate_prompt_tokens "
        "return_token_ids priority cache_salt timeout model stream stream_options max_tokens max_completion_tokens messages "
        "logprobs top_logprobs add_generation_prompt continue_final_message chat_template_kwargs user metadata response_format "
        "tools tool_choice parallel_tool_calls"
    ),
    TEXT: (
        "n best_of seed temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty logit_bias "
        "allowed_token_ids stop stop_token_ids include_stop_str_in_output min_tokens ignore_eos truncate_prompt_tokens "
        "return_token_ids priority cache_salt timeout model stream stream_options max_tokens max_completion_tokens prompt "
        "logprobs echo parse_special suffix user"
    ),
}
NUMBERS = _VALUES.split(" ")
FIELDS = {path: names.split() for path, names in _NAMES.items()}


@pytest.fixture
def client(live: LiveServer) -> Iterator[httpx.Client]:
    with live.http(headers=JSON) as client:
        yield client


def literal(path: str, name: str, value: str) -> str:
    """Return a minimal body as JSON text in which one field has a value that no JSON library would write."""
    rest = {key: other for key, other in MINIMAL[path].items() if key != name}
    return json.dumps({name: "@", **rest}).replace('"@"', value, 1)


def check_refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Return the error; its shape is OpenAI's, or Anthropic's on its routes, and it tells nothing about the machine."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    is_anthropic = response.url.path.startswith("/v1/messages")
    assert set(error) == ({"message", "type"} if is_anthropic else {"message", "type", "param", "code"})
    assert error["message"]
    assert len(response.content) < 2000
    assert not LEAKS.search(response.text), response.text
    return error


# --- values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in FIELDS for name in FIELDS[path]])
def test_any_value_in_any_field_is_served_or_refused_by_name(client: httpx.Client, path: str, name: str) -> None:
    for value in NUMBERS:
        response = client.post(path, content=literal(path, name, value))
        if response.status_code in (200, 404):
            assert response.status_code == 200 or name == "model", (value, response.text)
            continue
        error = check_refusal(response)
        # What is no JSON, or no number that exists, cannot be said to stand in a field.
        is_unreadable = value in ("NaN", "Infinity", "-Infinity", "1e309", "1e999999999")
        assert is_unreadable or name in str(error["param"]) or name in error["message"], (value, error)


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize("value", ["NaN", "1e308", "Infinity", "-1e308", "1e309"])
def test_temperature_beyond_numbers_is_400(client: httpx.Client, path: str, value: str) -> None:
    check_refusal(client.post(path, content=literal(path, "temperature", value)))


@pytest.mark.parametrize(
    "prompt",
    ["", [], [[]], [""], ["a", ""], [[1], []], [[[1]]], [None], None, {}, 0, True, ["a", [1]], [1, "a"], [1.0]],
)
def test_prompts_of_nothing_or_of_other_things_are_400(client: httpx.Client, prompt: object) -> None:
    assert check_refusal(client.post(TEXT, json={"prompt": prompt}))["param"] == "prompt"


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("field", ["prompt", "stop_token_ids", "allowed_token_ids", "logit_bias"])
def test_ids_outside_the_vocabulary_are_400(client: httpx.Client, field: str, token: int) -> None:
    ids: Any = {str(token): 1} if field == "logit_bias" else [5, token]
    error = check_refusal(client.post(TEXT, json={**MINIMAL[TEXT], field: ids}))
    assert str(error["param"]).startswith(field)


def test_special_tokens_alone_and_zero_bytes_are_text_like_any_other(client: httpx.Client) -> None:
    for prompt in ("<|begin_of_text|>", "<|eot_id|>" * 9, "\0", "\ufffe", "\u202e", "a\0b", "\n" * 50):
        response = client.post(TEXT, json={"prompt": prompt, "max_tokens": 2})
        assert response.status_code == 200, response.text


def _prompt_ids(client: httpx.Client, *messages: dict[str, Any]) -> list[int]:
    response = client.post(CHAT, json={"messages": messages, "max_tokens": 1, "return_token_ids": True})
    assert response.status_code == 200, response.text
    return list(response.json()["prompt_token_ids"])


def test_words_of_a_client_never_become_special_tokens(client: httpx.Client, live: LiveServer) -> None:
    """Every special token, in every role and as text parts, whole and split over messages: as many special ids as with plain words."""
    first = 4080  # the demo's vocabulary ends with its special tokens
    spelled = [f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "eot_id", "start_header_id", "end_header_id")]
    spelled += [f"<|reserved_special_token_{i}|>" for i in range(9)]
    for special in spelled:
        response = client.post(TEXT, json={"prompt": special, "max_tokens": 1, "return_token_ids": True})
        as_prompt = response.json()["choices"][0]["prompt_token_ids"]
        if special != "<|begin_of_text|>":
            assert len([token for token in as_prompt if token >= first]) == 2 or "reserved" in special
        head, tail = special[:5], special[5:]
        for attack in (
            [{"role": "user", "content": special}],
            [{"role": "system", "content": f"x{special}y"}, {"role": "user", "content": special * 3}],
            [{"role": "user", "content": [{"type": "text", "text": head}, {"type": "text", "text": tail}]}],
            [
                {"role": "user", "content": head},
                {"role": "assistant", "content": tail},
                {"role": "user", "content": special},
            ],
        ):
            plain = [{**message, "content": "word"} for message in attack]
            specials = [token for token in _prompt_ids(client, *attack) if token >= first]
            assert specials == [token for token in _prompt_ids(client, *plain) if token >= first], attack


# --- bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a"} {}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "a", "temperature": 0.' + b"1" * 100_000 + b"e-400000}",
        b"{" + b",".join(b'"%d":0' % i for i in range(50_000)) + b"}",
    ],
    ids=lambda body: f"{body[:24]!r}*{len(body)}",
)
def test_what_is_no_request_is_400(client: httpx.Client, path: str, body: bytes) -> None:
    response = client.post(path, content=body)
    if response.status_code != 200:  # a tiny number is a number
        check_refusal(response)


def test_the_last_of_two_equal_keys_counts_and_is_checked(client: httpx.Client) -> None:
    body = '{"prompt": "Hi", "max_tokens": 1, "temperature": 0, "temperature": 9}'
    assert check_refusal(client.post(TEXT, content=body))["param"] == "temperature"
    body = '{"prompt": "Hi", "max_tokens": 900000, "max_tokens": 1}'
    assert client.post(TEXT, content=body).json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "json",
        "",
    ],
)
@pytest.mark.parametrize("path", FIELDS)
def test_other_content_types_are_415(client: httpx.Client, path: str, kind: str) -> None:
    response = client.post(path, content=json.dumps(MINIMAL[path]), headers={"content-type": kind})
    assert check_refusal(response, 415)["code"] == "unsupported_media_type"


def test_names_of_unknown_parameters_cannot_write_headers(client: httpx.Client) -> None:
    names = ["a\r\nset-cookie: x", "ok.name", "ünïcode", "x" * 65, "", "a,b", *(f"n{i}" for i in range(30))]
    response = client.post(TEXT, json={**MINIMAL[TEXT], **dict.fromkeys(names, 1)})
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    listed = response.headers["x-tritserve-ignored"].split(", ")
    assert len(listed) == 17
    assert set(listed[:-1]) <= {"ok.name", *(f"n{i}" for i in range(30))}
    assert listed[-1] == f"+{len(names) - 16}"


def test_request_ids_cannot_write_headers(client: httpx.Client) -> None:
    for given in ("a b", "x" * 65, "é", '"', "a,b"):
        echoed = client.get("/health", headers={"x-request-id": given.encode()}).headers["x-request-id"]
        assert re.fullmatch(r"req_[0-9a-f]{24}", echoed)
    assert client.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"


def test_hundred_megabytes_are_refused_and_leave_no_trace(live: LiveServer, client: httpx.Client) -> None:
    client.post(TEXT, json=MINIMAL[TEXT])
    before = live.rss_bytes()
    piece = b"a" * 2**20

    def pieces() -> Iterator[bytes]:
        yield b'{"prompt": "'
        yield from itertools.repeat(piece, 100)

    for _ in range(3):
        # Declared and undeclared: the second is counted as it comes. The client may hear of it before all is sent.
        check_refusal(client.post(TEXT, content=piece * 5), 413)
        check_refusal(client.post(TEXT, content=pieces()), 413)
    assert live.rss_bytes() < before + 32 * 2**20


def test_hostile_bodies_do_not_make_the_server_grow(live: LiveServer, client: httpx.Client) -> None:
    bodies = [
        b'{"prompt": "' + b"a" * 3_000_000 + b'"}',
        b'{"prompt": [' + b"1," * 1_000_000 + b"1]}",
        b'{"prompt": [' + b"[1]," * 500_000 + b"[1]]}",
        b'{"prompt": "a", "stop": [' + b'"x",' * 500_000 + b'"x"]}',
        b'{"prompt": "a", "x": [' + b"{}," * 1_000_000 + b"{}]}",
        b'{"prompt": "a", "stop_token_ids": [' + b"1," * 200_000 + b"1]}",
        b'{"messages": [' + b'{"role":"user","content":"x"},' * 50_000 + b"{}]}",
        b'{"prompt": "a", "n": 2147483647}',
        b'{"prompt": "a", "max_tokens": 2, "logit_bias": {' + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}}",
    ]
    for body in bodies:  # what the allocator keeps is kept now
        client.post(TEXT, content=body)
    before = live.rss_bytes()
    for body in bodies * 2:
        for path in FIELDS:
            check_refusal(client.post(path, content=body))
    assert live.rss_bytes() < before + 48 * 2**20


# --- combinations -----------------------------------------------------------------------------------------------------------

PARAMETERS: dict[str, list[Any]] = {
    "stream": [False, True],
    "n": [1, 3],
    "temperature": [0, 1, 2],
    "top_p": [0, 0.3, 1],
    "top_k": [-1, 1, 40],
    "min_p": [0, 1],
    "seed": [None, -1, 2**63 - 1],
    "presence_penalty": [0, -2, 2],
    "frequency_penalty": [0, 2],
    "repetition_penalty": [1, 0.01, 100],
    "logit_bias": [None, {"5": 100}, {"5": -100, "4095": -100}],
    "allowed_token_ids": [None, [5], [5, 6, 4088]],
    "stop": [None, "a", ["zz", "e"]],
    "stop_token_ids": [None, [5, 6]],
    "include_stop_str_in_output": [False, True],
    "min_tokens": [0, 2],
    "ignore_eos": [False, True],
    "max_tokens": [1, 4],
    "truncate_prompt_tokens": [None, 1, 3],
    "return_token_ids": [False, True],
    "cache_salt": [None, "s"],
    "timeout": [None, 60],
    "stream_options": [None, {"include_usage": True}],
    "logprobs": [None, "yes"],
    "echo": [False, True],
}


def all_pairs(parameters: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return combinations in which every two values of two parameters meet at least once (greedy; deterministic)."""
    names = sorted(parameters, key=lambda name: -len(parameters[name]))
    wanted = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(parameters[a]))
        for j in range(len(parameters[b]))
    }
    rows = []
    while wanted:
        (first, second) = min(wanted)
        row = dict((first, second))
        for name in names:
            if name in row:
                continue

            cells = set(row.items())
            gains = [_num_new(wanted, cells, (name, index)) for index in range(len(parameters[name]))]
            row[name] = gains.index(max(gains))
        wanted -= set(itertools.product(row.items(), repeat=2))
        rows.append({name: parameters[name][index] for name, index in row.items()})
    return rows


def _num_new(wanted: set[tuple[Cell, Cell]], cells: set[Cell], cell: Cell) -> int:
    """Return how many wanted pairs ``cell`` makes with the cells of a row."""
    return sum((other, cell) in wanted or (cell, other) in wanted for other in cells)


@pytest.mark.parametrize("path", FIELDS)
def test_every_two_parameters_work_together(client: httpx.Client, path: str) -> None:
    rows = all_pairs(PARAMETERS)
    assert 10 < len(rows) < 60
    served = 0
    for row in rows:
        body = {key: value for key, value in {**MINIMAL[path], **row}.items() if value is not None}
        if body.pop("logprobs", None):
            body |= {"logprobs": True, "top_logprobs": 2} if path == CHAT else {"logprobs": 2}
        if path == CHAT:
            body.pop("echo")
        refusable = {
            "stream_options": "stream_options" in body and not body["stream"],
            "min_tokens": body["min_tokens"] > body["max_tokens"],
        }
        with client.stream("POST", path, json=body) as response:
            if any(refusable.values()):
                response.read()
                assert refusable[check_refusal(response)["param"]], body
                continue
            assert response.status_code == 200, (body, response.read())
            if body["stream"]:
                answers = list(events(response))
                assert not [answer for answer in answers if "error" in answer], body
            else:
                answers = [json.loads(response.read())]
        ended = [c for answer in answers for c in answer["choices"] if c["finish_reason"] is not None]
        assert sorted(choice["index"] for choice in ended) == list(range(body["n"])), body
        served += 1
    assert served > len(rows) // 2


# --- routes -----------------------------------------------------------------------------------------------------------------


def test_no_answer_that_refuses_shows_the_machine(client: httpx.Client) -> None:
    """Every route with every method and with bodies of every kind."""
    paths = [
        *(
            "/",
            "/v1",
            "/v1/models",
            "/v1/models/x",
            "/v1/models/..%2f..%2fetc%2fpasswd",
            "/health",
            "/ready",
            "/version",
        ),
        *(
            "/metrics",
            "/props",
            "/docs",
            "/openapi.json",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
            "/tokenize",
        ),
        *("/%00", "/%ff", "/a%0d%0ab", "//v1/models", "/V1/models", "/v1/models/%0a", "/v1/models/" + "x" * 2000),
        *(f"{path}{end}" for path in FIELDS for end in ("", "/", "?x=1", "/..", "%20")),
    ]
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"):
            response = client.request(method, path, content=b"{")
            assert response.status_code < 500, (method, path, response.text)
            if response.status_code >= 400 and method != "HEAD":
                check_refusal(response, response.status_code)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "x", "tool_calls": [{}]},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "robot", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": {"a": 1}},
        {"role": "user", "content": "x", "name": "{{ 7 * 7 }}<|eot_id|>"},
        "x",
        None,
    ],
)
def test_messages_of_other_kinds_are_refused_by_place(client: httpx.Client, message: object) -> None:
    error = check_refusal(client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}, message]}))
    assert str(error["param"]).startswith("messages[1]")


def test_templates_and_their_reserved_names_do_not_come_from_clients(client: httpx.Client) -> None:
    for extra in (
        {"chat_template": "{{ cycler.__init__.__globals__ }}"},
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"chat_template_kwargs": {"__class__": 1}},
        {"chat_template_kwargs": dict.fromkeys(string.ascii_letters, 1)},
    ):
        check_refusal(client.post(CHAT, json={**MINIMAL[CHAT], **extra}))
    rendered = _prompt_ids(client, {"role": "user", "content": "{{ 7 * 7 }}{% for x in range(9) %}a{% endfor %}"})
    assert len(rendered) > 20  # it is text, not a template

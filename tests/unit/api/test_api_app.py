"""What surrounds every route: keys, the Host rule, request ids, errors, probes, metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from scripted_pool import ScriptedPool
from whole_app import call, client, client_of, sample, whole_front

from tritserve.api import app as app_module
from tritserve.api.app import create_app
from tritserve.api.keys import Key, KeyRing
from tritserve.errors import ModelFileError, Overloaded, Unavailable

if TYPE_CHECKING:
    from tritserve.api.front import Front

KEY = "secret"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
ROUTES = [
    route for router in app_module._ROUTERS for route in router.routes if isinstance(route, APIRoute)
]  # FastAPI keeps included routers nested
ODD_HOSTS = [
    "localhost",
    "127.0.0.1",
    "/health",
    "x/health?",
    "x/health#",
    "localhost/health?x=",
    "localhost:8000/health",
    "@localhost/health",
    "localhost?/health",
    "localhost#/health",
    "http://localhost/health",
    "localhost\\health",
    "localhost%2fhealth",
    "[::1]/health",
    "",
    " ",
    ".",
    "ready",
    "*",
    "health",
]
LEAK = re.compile(r"/home|/usr|/work|\.py\b|0x[0-9a-f]{6,}|Traceback|File \"|site-packages|Error\(")


def ring() -> KeyRing:
    return KeyRing((Key("ann", hashlib.sha256(KEY.encode()).digest()),))


def error_of(response: Any) -> dict[str, Any]:
    """Return an answer's error (of a response, or in a body), which must have OpenAI's shape and leak nothing."""
    error: dict[str, Any] = json.loads(response if isinstance(response, bytes) else response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert not LEAK.search(error["message"]), error["message"]
    return error


# --- keys -------------------------------------------------------------------------------------------------------------


def unkeyed_calls() -> list[tuple[str, str]]:
    """Every route and what lies near it, with every method, but for the two probes."""
    paths = {route.path.replace("{name:path}", "tiny") for route in ROUTES} | {
        "/",
        "/nothing",
        "/docs",
        "/openapi.json",
    }
    near = [
        spelt
        for path in paths
        for spelt in (
            path,
            path + "/",
            "/" + path,
            path.upper(),
            path.replace("/v1", "/%76%31"),
            path + "%2f",
            path + "/..",
        )
    ]
    near += [
        "/health/",
        "//health",
        "/HEALTH",
        "/health/x",
        "/ready/",
        "/health%2f",
        "/v1/../health/",
        "/health;x",
        "/./health",
    ]
    methods = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
    calls = [(method, path) for path in near for method in methods]
    return [call for call in calls if call[1] not in ("/health", "/ready") or call[0] not in ("GET", "HEAD")]


async def test_without_a_key_every_route_answers_401_but_the_two_probes() -> None:
    app = create_app(whole_front(keys=ring(), host="0.0.0.0"))
    for method, path in unkeyed_calls():
        status, headers, body = await call(app, method, path)
        assert status == 401, (method, path)
        assert headers["www-authenticate"] == "Bearer"
        assert headers["x-request-id"]
        if json.loads(body).get("type") == "error":  # Anthropic's shape, on its routes
            assert "messages" in path
            assert json.loads(body)["error"]["type"] == "authentication_error"
        else:
            assert error_of(body)["code"] == "invalid_api_key"
    for path in ("/health", "/ready"):
        for method in ("GET", "HEAD"):
            assert (await call(app, method, path))[0] == 200


@pytest.mark.parametrize("host", ODD_HOSTS)
async def test_no_host_header_opens_a_route(host: str) -> None:
    app = create_app(whole_front(keys=ring(), host="0.0.0.0"))
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/props"), ("POST", "/v1/completions")):
        assert (await call(app, method, path, {"host": host}))[0] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
        {"authorization": "Basic eDp5", "x-api-key": KEY},
    ],
)
async def test_either_header_carries_the_key(headers: dict[str, str]) -> None:
    async with client(keys=ring()) as http:
        assert (await http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", KEY)],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {KEY}")],
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer wrong")],
        [("x-api-key", KEY), ("x-api-key", KEY)],
        [("x-api-key", "ann")],
        [("cookie", f"x-api-key={KEY}")],
        [("x-api-key", hashlib.sha256(KEY.encode()).hexdigest())],
    ],
)
async def test_what_is_not_exactly_one_right_key_is_401(headers: list[tuple[str, str]]) -> None:
    async with client(keys=ring()) as http:
        assert (await http.get(f"/v1/models?api_key={KEY}", headers=headers)).status_code == 401


async def test_log_names_the_key_and_never_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client(keys=ring()) as http:
        await http.post("/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {KEY}"})
        await http.get("/v1/models", headers={"x-api-key": KEY})
        await http.get("/v1/models", headers={"x-api-key": "wrong-secret"})
    lines = [{**record.__dict__.get("fields", {}), "event": record.getMessage()} for record in caplog.records]
    assert [line.get("key_name") for line in lines if line["event"] in ("request", "http")] == ["ann", "ann", None]
    assert KEY not in str(lines)


# --- Host and CORS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:8000",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1:1",
            "192.168.1.7",
            "[::1]:8000",
            "[fe80::1]",
        ),
        *("host.docker.internal:8000", "llm.example.org", "LLM.example.org:443", "llm.example.org."),
    ],
)
async def test_local_names_addresses_and_configured_names_pass(host: str) -> None:
    async with client(allowed_hosts="llm.example.org") as http:
        assert (await http.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8000", "xllm.example.org"),
        *("localhost@evil.example", "localhost/", "", "1.2.3.4.5", "[::1", "[localhost]", "0x7f.1", "localhost,evil"),
    ],
)
async def test_other_names_are_refused_when_bound_to_loopback(host: str) -> None:
    async with client(allowed_hosts="llm.example.org") as http:
        response = await http.get("/v1/models", headers={"host": host})
        assert response.status_code == 403
        assert error_of(response)["code"] == "host_not_allowed"
        assert (await http.get("/health", headers={"host": host})).status_code == 200
        assert (await http.get("/ready", headers={"host": host})).status_code == 200


async def test_refused_host_is_told_how_to_be_allowed() -> None:
    async with client() as http:
        message = error_of(await http.get("/", headers={"host": "llm.example.org:80"}))["message"]
    assert "--allowed-hosts llm.example.org" in message


async def test_any_name_passes_beyond_loopback_unless_names_are_configured() -> None:
    async with client(host="0.0.0.0") as http:
        assert (await http.get("/v1/models", headers={"host": "any.example"})).status_code == 200
    async with client(host="0.0.0.0", allowed_hosts="llm.example.org") as http:
        assert (await http.get("/v1/models", headers={"host": "any.example"})).status_code == 403


async def test_cors_is_off_by_default_and_opens_to_the_configured_origin_only() -> None:
    preflight = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    async with client(keys=ring()) as http:
        response = await http.options("/v1/chat/completions", headers=preflight)
        assert response.status_code == 401
        assert "access-control-allow-origin" not in response.headers
    async with client(keys=ring(), cors_origins="https://chat.example") as http:
        response = await http.options("/v1/chat/completions", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://chat.example"
        unkeyed = await http.get("/v1/models", headers={"origin": "https://chat.example"})
        assert unkeyed.status_code == 401
        assert unkeyed.headers["access-control-allow-origin"] == "https://chat.example"
        other = await http.options("/v1/chat/completions", headers={**preflight, "origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


# --- ids, errors ------------------------------------------------------------------------------------------------------


async def test_good_request_id_is_echoed_also_on_errors() -> None:
    async with client() as http:
        for path in ("/health", "/nothing", "/v1/models"):
            response = await http.get(path, headers={"x-request-id": "abc-1.2_3"})
            assert response.headers["x-request-id"] == "abc-1.2_3"
            assert int(response.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "a\tb", "<x>", "é"])
async def test_bad_request_id_is_replaced(given: str) -> None:
    async with client() as http:
        first = await http.get("/health", headers=[(b"x-request-id", given.encode())])
        assert re.fullmatch(r"req_[0-9a-f]{24}", first.headers["x-request-id"])
        twice = await http.get("/health", headers=[("x-request-id", "a"), ("x-request-id", "b")])
        assert twice.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/V1/Models", "/v1/models"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/ready", "/ready"),
    ],
)
async def test_wrong_path_names_the_one_that_was_meant(path: str, meant: str) -> None:
    status, _, body = await call(create_app(whole_front()), "POST", path)
    assert status == 404
    message = error_of(body)["message"]
    assert f"did you mean {meant}?" in message
    assert ("base_url ends in /v1" in message) == meant.startswith("/v1/")


@pytest.mark.parametrize("path", ["/x" * 4000, "/" * 4000, "/%00", "/v1/" + "a" * 4000, "/%ff%fe", "*"])
async def test_wrong_path_of_any_kind_is_404(path: str) -> None:
    status, _, body = await call(create_app(whole_front()), "GET", path)
    assert status == 404
    assert error_of(body)["code"] == "not_found"


async def test_wrong_method_is_405_and_names_the_right_one() -> None:
    async with client() as http:
        response = await http.get("/v1/chat/completions")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert error_of(response)["code"] == "method_not_allowed"


async def test_overload_is_429_with_retry_and_rate_limit_headers() -> None:
    pool = ScriptedPool()
    pool.refusal = Overloaded("Busy.", reason="queue_full", retry_after_seconds=2.5)
    async with client(pool, queue_limit=7) as http:
        response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 429
    assert error_of(response) == {"message": "Busy.", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    expected = {
        "retry-after": "3",
        "retry-after-ms": "2500",
        "x-ratelimit-limit-requests": "7",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2.500s",
        "x-ratelimit-limit-tokens": "1000000",
    }
    assert {name: response.headers[name] for name in expected} == expected


async def test_unavailable_is_503_with_retry_after() -> None:
    pool = ScriptedPool()
    pool.refusal = Unavailable("The server is shutting down.")
    async with client(pool) as http:
        response = await http.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("error", [ValueError("secret /home/me"), ModelFileError("/home/me/m.trit: secret")])
async def test_unexpected_error_says_only_the_request_id_and_is_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> Any:
        raise error

    async with client(ScriptedPool(fail)) as http:
        response = await http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert "abc" in error_of(response)["message"]
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "abc"
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["unexpected error"]


# --- probes and metrics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"ready": False}, "loading"),
        ({"ready": False, "draining": True}, "draining"),
        ({"ready": False, "failed": "/home/me/m.trit is damaged"}, "failed"),
    ],
)
async def test_ready_says_why_not_and_health_does_not_care(status: dict[str, Any], reason: str) -> None:
    pool = ScriptedPool()
    pool.set_status(**status)
    async with client(pool) as http:
        response = await http.get("/ready")
        assert response.status_code == 503
        assert response.json()["reason"].startswith(reason)
        assert "/home" not in response.text
        assert response.headers["retry-after"] == "1"
        assert (await http.get("/health")).json() == {"status": "ok"}


async def test_version_and_props_describe_the_server() -> None:
    async with client(queue_limit=7) as http:
        assert re.match(r"\d+\.\d+", (await http.get("/version")).json()["version"])
        props = (await http.get("/props")).json()
    assert props["model"] == "tiny"
    assert props["threads"] == 1
    assert props["max_model_len"] == 256
    assert props["calibration"] == [{"op": "gemv", "kernel": "a", "seconds": 1e-6, "chosen": True}]
    assert props["limits"]["queue_limit"] == 7


async def test_metrics_come_in_the_format_that_accept_asks_for() -> None:
    async with client() as http:
        text = await http.get("/metrics")
        assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert {family.name for family in text_string_to_metric_families(text.text)} >= {"tritserve_ready"}
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
        om = await http.get("/metrics", headers={"accept": accept})
        assert om.headers["content-type"].startswith("application/openmetrics-text")
        assert om.text.endswith("# EOF\n")


async def answered(front: Front, **labels: str) -> float | None:
    return sample(front, "tritserve_http_requests_total", **labels)


async def test_answers_are_counted_by_template_and_unknown_paths_together() -> None:
    front = whole_front(keys=ring())
    async with client_of(create_app(front)) as http:
        http.headers["x-api-key"] = KEY
        assert await answered(front, route="/v1/models", method="GET", code="200") == 0
        await http.get("/v1/models")
        await http.get("/v1/models/tiny")
        await http.get("/v1/models/org/tiny")
        for path in ("/a", "/b", "/../etc/passwd"):
            await http.get(path)
        await http.request("PROPFIND", "/v1/models")
        await http.post("/v1/chat/completions", json=CHAT)
        await http.get("/v1/models", headers={"x-api-key": "wrong"})
    assert await answered(front, route="/v1/models", method="GET", code="200") == 1
    assert await answered(front, route="/v1/models/{name:path}", method="GET", code="200") == 2
    assert await answered(front, route="other", method="GET", code="404") == 3
    assert await answered(front, route="/v1/models", method="other", code="405") == 1
    assert await answered(front, route="/v1/models", method="GET", code="401") == 1
    assert await answered(front, route="/v1/chat/completions", method="POST", code="200") == 1


async def test_each_generation_request_is_one_line_and_one_count_and_probes_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tritserve")
    front = whole_front()
    async with client_of(create_app(front)) as http:
        await http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "good"})
        await http.post("/v1/chat/completions", json={**CHAT, "temperature": 9}, headers={"x-request-id": "bad"})
        for path in ("/health", "/ready", "/metrics"):
            await http.get(path)
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [(line["request_id"], line["outcome"]) for line in fields] == [("good", "length"), ("bad", "rejected")]
    assert fields[0]["num_generated_tokens"] == 2
    assert "Hi" not in json.dumps(fields)
    for outcome in ("length", "rejected"):
        assert sample(front, "tritserve_requests_total", endpoint="chat", outcome=outcome) == 1
    assert sample(front, "tritserve_requests_rejected_total", reason="invalid") == 1


async def test_scrape_takes_under_5_ms() -> None:
    front = whole_front()
    async with client_of(create_app(front)) as http:
        await http.get("/metrics")  # makes what is made once

    def scrape() -> float:
        began = time.thread_time()  # this thread's own: other processes share the machine
        front.telemetry.render(front.pool.status, "application/openmetrics-text")
        return time.thread_time() - began

    assert any(scrape() < 0.005 for _ in range(1000))  # ends with the first: a busy neighbour slows the rest

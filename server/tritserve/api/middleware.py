"""What happens to every request before its route: an id, the key, the Host rule; and to every answer: counted, errors explained.

Pure ASGI: nothing here buffers a stream or runs it in another task, so a client that leaves reaches the route at once.
``scope["state"]`` carries ``request_id``, ``received_at`` (monotonic; when the body was complete) and ``key_name``.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tritserve import logs
from tritserve.api.http_errors import ErrorReply, anthropic_error, plain_reply, reply_to
from tritserve.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tritserve.api.keys import KeyRing
    from tritserve.telemetry import Telemetry

logger = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/ready"})
"""The closed list of paths that need no key and no known Host. They hold no data."""
_UNLOGGED = PROBES | {"/metrics"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:\d{0,5})?")
_ALWAYS_ALLOWED = frozenset({"localhost", "host.docker.internal"})
_CLIENT_LEFT = 499  # nobody hears it; the usual number in metrics and logs
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class RequestContext:
    """The outermost layer: identity, clocks, metrics, the log, and the answer to what nobody caught."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, templates: frozenset[str], generation: frozenset[str]
    ) -> None:
        """``templates`` are the routes that may be named in metrics; ``generation`` those that write a log line of their own."""
        self._app = app
        self._telemetry = telemetry
        self._templates = templates
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        request_id = _request_id(scope)
        logs.request_id.set(request_id)
        state: dict[str, Any] = scope.setdefault("state", {})
        state.update(request_id=request_id, received_at=begun, key_name="")
        status = 0
        client_left = False

        async def receive_and_note() -> Message:
            nonlocal client_left
            message = await receive()
            if message["type"] == "http.disconnect":
                client_left = True
            if message["type"] == "http.request" and not message.get("more_body", False):
                state["received_at"] = time.monotonic()
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                # An answer that nobody waits for any more is no error of ours, whatever it says.
                status = _CLIENT_LEFT if client_left else message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if _is_anthropic(scope):
                    headers["request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.monotonic() - begun) * 1000))
                self._telemetry.on_http_answer(self._route(scope), method_label(scope["method"]), status)
            await send(message)

        try:
            await self._app(scope, receive_and_note, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_LEFT
            self._telemetry.on_http_answer(self._route(scope), method_label(scope["method"]), status)
        except Exception as error:
            if status:
                raise  # the status is gone: the server below logs it and cuts the connection, so nobody takes it for whole
            await send_reply(reply_to(error, request_id), scope, receive_and_note, send_with_headers)
        self._log(scope, status, time.monotonic() - begun)

    def _route(self, scope: Scope) -> str:
        path = scope["path"]
        if path in self._templates:
            return str(path)
        template = str(getattr(scope.get("route"), "path", ""))
        return template if template in self._templates else "other"

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        if scope["path"] in _UNLOGGED and status < 500 and status != 401:
            return
        if scope.get("route") is not None and self._route(scope) in self._generation:
            return
        logger.info(
            "http",
            extra=logs.with_fields(
                method=method_label(scope["method"]),
                route=self._route(scope),
                status=status,
                duration_seconds=seconds,
                key_name=scope["state"]["key_name"],
            ),
        )


class HostRule:
    """Refuse names that a web page may have pointed at this machine (DNS rebinding)."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = _ALWAYS_ALLOWED | {name.lower().rstrip(".") for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not is_probe(scope):
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or not self._is_allowed(hosts[0].decode("latin-1")):
                await send_reply(_host_refused(hosts), scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].lower().rstrip(".")
        if name in self._allowed:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class KeyRequired:
    """Let nobody past without a key, whatever the path; decided by the headers alone."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not is_probe(scope):
            name = self._find(scope)
            if name is None:
                error = Unauthorized(
                    "No valid API key: send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'. "
                    "Keys are set by the operator of this server."
                )
                await send_reply(reply_to(error), scope, receive, send)
                return
            scope["state"]["key_name"] = name
        await self._app(scope, receive, send)

    def _find(self, scope: Scope) -> str | None:
        found = None
        for presented in _presented_keys(scope):
            found = self._keys.find(presented) or found
        return found


def is_probe(scope: Scope) -> bool:
    """Say whether a request is one of the health checks that are open to everybody."""
    return scope["path"] in PROBES and scope["method"] in ("GET", "HEAD")


def method_label(method: str) -> str:
    """Return a method as a metric may name it."""
    return method if method in _METHODS else "other"


async def send_reply(reply: ErrorReply, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error."""
    await error_response(reply, scope)(scope, receive, send)


def error_response(reply: ErrorReply, scope: Scope) -> Response:
    """Return an error in the shape that the route's clients read."""
    content = anthropic_error(reply, scope["state"]["request_id"]) if _is_anthropic(scope) else reply.content
    return Response(content, reply.status, dict(reply.headers), media_type="application/json")


def _is_anthropic(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _presented_keys(scope: Scope) -> list[bytes]:
    """Return at most one key per header; a header given twice is not guessed about."""
    values: dict[bytes, list[bytes]] = {b"authorization": [], b"x-api-key": []}
    for name, value in scope["headers"]:
        if name in values:
            values[name].append(value.strip())
    keys = []
    if len(values[b"authorization"]) == 1:
        scheme, _, key = values[b"authorization"][0].partition(b" ")
        if scheme.lower() == b"bearer":
            keys.append(key.strip())
    if len(values[b"x-api-key"]) == 1:
        keys.append(values[b"x-api-key"][0])
    return [key for key in keys if key]


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return str(given[0], "ascii")
    return "req_" + secrets.token_hex(12)


def _host_refused(hosts: list[bytes]) -> ErrorReply:
    found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if found is None:
        return plain_reply(403, "The Host header is missing or is not a host name.", code="host_not_allowed")
    name = found["name"]
    return plain_reply(
        403,
        f"This server does not answer to the name {name}. If it should, start it with --allowed-hosts {name} "
        f"(or TRITSERVE_ALLOWED_HOSTS={name}); localhost and IP addresses always work.",
        code="host_not_allowed",
    )

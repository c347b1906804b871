"""Put the front together: routes, the layers around them, and the answers to what fits no route."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from tritserve.api import anthropic, chat, completions, health, metrics, models, responses, tokenize
from tritserve.api.http_errors import ErrorReply, plain_reply, reply_to
from tritserve.api.middleware import HostRule, KeyRequired, RequestContext, error_response
from tritserve.errors import InvalidRequest, Overloaded, ServerError
from tritserve.settings import is_loopback

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from tritserve.api.front import Front

GENERATION_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"})
_ROUTERS = (
    chat.router,
    completions.router,
    anthropic.router,
    responses.router,
    models.router,
    tokenize.router,
    health.router,
    metrics.router,
)


def create_app(front: Front) -> FastAPI:
    """Return the ASGI application of a front. It starts and stops nothing: ``serving.run`` does."""
    app = FastAPI(title="tritserve", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.front = front
    for router in _ROUTERS:
        app.include_router(router)
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    front.telemetry.preset_routes((route.path, method) for route in routes for method in sorted(route.methods or ()))
    templates = frozenset(route.path for route in routes)

    async def refuse(request: Request, error: Exception) -> Response:
        return error_response(_explain(front, request, error, templates), request.scope)

    app.add_exception_handler(ServerError, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(HTTPException, refuse)

    # The last one added is the outermost.
    settings = front.settings
    if front.keys is not None:
        app.add_middleware(KeyRequired, keys=front.keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after", "retry-after-ms", "x-tritserve-ignored"),
        )
    if is_loopback(settings.host) or settings.allowed_hosts:
        app.add_middleware(HostRule, allowed=settings.allowed_hosts)
    app.add_middleware(
        RequestContext, telemetry=front.telemetry, templates=templates, generation=GENERATION_ROUTES & templates
    )
    return app


def _explain(front: Front, request: Request, error: Exception, templates: frozenset[str]) -> ErrorReply:
    match error:
        case HTTPException(status_code=404):
            return plain_reply(404, _not_found(request.scope["path"], templates))
        case HTTPException(status_code=405):
            allowed = (error.headers or {}).get("Allow", "")
            text = f"This route does not answer to {_shown(request.method)}; it answers to {allowed}."
            return plain_reply(405, text, headers={"allow": allowed})
        case HTTPException():
            return plain_reply(error.status_code, str(error.detail), headers=error.headers)
        case RequestValidationError():
            first = error.errors()[0]
            param = ".".join(str(part) for part in first["loc"][1:])[:128] or None
            return reply_to(InvalidRequest(str(first["msg"]), param=param))
    reply = reply_to(error, request.state.request_id)
    if isinstance(error, Overloaded):
        return ErrorReply(
            reply.status,
            *(reply.message, reply.type, reply.param, reply.code),
            headers={**reply.headers, **_rate_limits(front, error)},
        )
    return reply


def _rate_limits(front: Front, error: Overloaded) -> dict[str, str]:
    """OpenAI's headers: what the bounds are, and what is left of the one that was met."""
    status = front.pool.status
    free = front.settings.queue_limit - status.num_running - status.num_waiting
    headers = {
        "x-ratelimit-limit-requests": str(front.settings.queue_limit),
        "x-ratelimit-remaining-requests": str(0 if error.reason == "queue_full" else max(0, free)),
        "x-ratelimit-limit-tokens": str(front.settings.max_tokens_in_flight),
    }
    kind = "tokens" if error.reason == "tokens_full" else "requests"
    return {**headers, f"x-ratelimit-reset-{kind}": f"{error.retry_after_seconds:.3f}s"}


def _not_found(path: str, templates: frozenset[str]) -> str:
    """Name the route that was probably meant: most often the base_url lacks its /v1, or has two of them."""
    plain = "/" + "/".join(part for part in path.lower().split("/") if part)
    while plain.startswith("/v1/v1"):
        plain = plain.removeprefix("/v1")
    for candidate in (plain, "/v1" + plain):
        if candidate in templates:
            return _did_you_mean(candidate)
    near = difflib.get_close_matches(plain[:256], sorted(templates), n=1, cutoff=0.75)
    return _did_you_mean(near[0]) if near else "There is no such route. The base_url for OpenAI clients ends in /v1."


def _did_you_mean(route: str) -> str:
    hint = " The base_url ends in /v1." if route.startswith("/v1/") else ""
    return f"There is no such route: did you mean {route}?{hint}"


def _shown(method: str) -> str:
    return method if method.isalpha() and len(method) <= 16 else "this method"

"""Is it alive, is it ready, what is it: answers that never wait for a worker."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from tritserve.api.http_errors import retry_headers

if TYPE_CHECKING:
    from tritserve.api.front import Front
    from tritserve.pool.generation import PoolStatus

router = APIRouter()
_METHODS = ["GET", "HEAD"]


@router.api_route("/health", methods=_METHODS)
async def health() -> JSONResponse:
    """Say that the event loop runs. Load, loading and draining never change it."""
    return JSONResponse({"status": "ok"})


@router.api_route("/ready", methods=_METHODS)
async def ready(request: Request) -> JSONResponse:
    """Say whether requests are served: 200, or 503 with the reason."""
    front: Front = request.app.state.front
    reason = not_ready_because(front.pool.status)
    if reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": reason}, 503, headers=retry_headers(1.0))


@router.api_route("/version", methods=_METHODS)
async def show_version() -> JSONResponse:
    """Name the version."""
    return JSONResponse({"version": version("tritserve")})


@router.api_route("/props", methods=_METHODS)
async def props(request: Request) -> JSONResponse:
    """Describe what is served, by what, within which limits."""
    front: Front = request.app.state.front
    status, settings = front.pool.status, front.settings
    return JSONResponse(
        {
            "model": front.model.names[0],
            "aliases": list(front.model.names[1:]),
            "max_model_len": status.max_model_len,
            "weights_sha256": front.model.weights_sha256,
            "isa": status.isa,
            "kernels": status.kernels,
            "calibration": [
                {"op": t.op, "kernel": t.kernel, "seconds": t.seconds, "chosen": t.chosen} for t in status.kernel_times
            ],
            "workers": status.num_workers,
            "threads": status.num_threads,
            "kv_dtype": status.kv_dtype,
            "kv_cache_bytes": status.kv_capacity_bytes,
            "batch_invariant": True,
            "limits": {
                "queue_limit": settings.queue_limit,
                "max_tokens_in_flight": settings.max_tokens_in_flight,
                "max_body_bytes": settings.max_body_bytes,
                "max_n": settings.max_n,
                "max_stop_strings": settings.max_stop_strings,
                "request_timeout_seconds": settings.request_timeout_seconds,
            },
        }
    )


def not_ready_because(status: PoolStatus) -> str | None:
    """Return why requests are refused at the moment, None if they are not. Reasons name no file: anyone may ask."""
    if status.draining:
        return "draining: the server is shutting down"
    if status.failed is not None:
        return "failed: the model could not be loaded; the server's log says why"
    return None if status.ready else "loading: no worker is ready yet"

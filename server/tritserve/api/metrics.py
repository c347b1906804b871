"""GET /metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from tritserve.api.front import Front

router = APIRouter()


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format, or in OpenMetrics if Accept asks for it."""
    front: Front = request.app.state.front
    content, content_type = front.telemetry.render(front.pool.status, request.headers.get("accept", ""))
    return Response(content, headers={"content-type": content_type, "cache-control": "no-cache"})

"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from tritserve.api.respond import JSON_MEDIA_TYPE
from tritserve.api.schemas.models import ModelCard, ModelList
from tritserve.errors import ModelNotFound

if TYPE_CHECKING:
    from tritserve.api.front import Front

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List every name of the model."""
    front: Front = request.app.state.front
    cards = [_card(front, name) for name in front.model.names]
    return _reply(ModelList(data=cards, first_id=cards[0].id, last_id=cards[-1].id))


@router.get("/v1/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> Response:
    """Describe one name; it may hold slashes."""
    front: Front = request.app.state.front
    if name not in front.model.names:
        raise ModelNotFound(f"This server has no such model; it has {', '.join(map(repr, front.model.names))}.")
    return _reply(_card(front, name))


def _card(front: Front, name: str) -> ModelCard:
    created = front.model.created
    return ModelCard(
        id=name,
        created=created,
        display_name=name,
        created_at=datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        root=front.model.names[0],
        max_model_len=front.pool.status.max_model_len,
    )


def _reply(answer: ModelCard | ModelList) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON_MEDIA_TYPE)

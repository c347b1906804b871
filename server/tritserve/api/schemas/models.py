"""What GET /v1/models answers: OpenAI's fields, then Anthropic's, then ours."""

from __future__ import annotations

from msgspec import Struct


class ModelCard(Struct):
    """One name of the model. ``created`` in Unix seconds, ``created_at`` the same as RFC 3339."""

    id: str
    created: int
    display_name: str
    created_at: str
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "tritserve"
    parent: None = None
    type: str = "model"


class ModelList(Struct):
    """Every name."""

    data: list[ModelCard]
    first_id: str
    last_id: str
    object: str = "list"
    has_more: bool = False

"""What GET /v1/models answers: OpenAI's fields, then Anthropic's, then ours."""

from __future__ import annotations

from msgspec import Struct


class ModelCard(Struct, kw_only=True):
    """One name of the model. ``created`` in Unix seconds, ``created_at`` the same as RFC 3339."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "tritserve"
    type: str = "model"
    display_name: str
    created_at: str
    root: str
    parent: None = None
    max_model_len: int


class ModelList(Struct, kw_only=True):
    """Every name."""

    object: str = "list"
    data: list[ModelCard]
    first_id: str
    last_id: str
    has_more: bool = False

"""What every route needs, assembled once by ``cli/serve.py`` and handed to ``create_app``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritserve.api.keys import KeyRing
    from tritserve.model.header import GenerationDefaults
    from tritserve.pool.generation import Pool
    from tritserve.settings import Settings
    from tritserve.telemetry import Telemetry
    from tritserve.text.model_text import ModelText


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The one model of this server. ``names[0]`` is canonical, the others are aliases; ``created`` in Unix seconds."""

    names: tuple[str, ...]
    created: int
    text: ModelText
    eos_token_ids: frozenset[int]
    defaults: GenerationDefaults
    vocab_size: int
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Front:
    """One per app. ``keys`` is None where no key is asked for."""

    settings: Settings
    pool: Pool
    model: ServedModel
    telemetry: Telemetry
    keys: KeyRing | None

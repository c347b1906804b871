"""What every route needs, assembled once by ``cli/serve.py`` and handed to ``create_app``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from tritserve.api.identity import fingerprint
from tritserve.errors import Unavailable

if TYPE_CHECKING:
    from tritserve.api.keys import KeyRing
    from tritserve.model.header import GenerationDefaults, SpecialTokens
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
    special_tokens: SpecialTokens
    defaults: GenerationDefaults
    vocab_size: int
    weights_sha256: str

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(self.special_tokens.eos)


@dataclass(frozen=True, slots=True)
class Front:
    """One per app. ``keys`` is None where no key is asked for. ``text_threads`` bounds the threads that encode prompts: two, so that
    a long one does not hold up the short ones, and the workers keep their cores."""

    settings: Settings
    pool: Pool
    model: ServedModel
    telemetry: Telemetry
    keys: KeyRing | None
    text_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))

    @property
    def system_fingerprint(self) -> str:
        """What answers are named after besides their id."""
        return fingerprint(self.model.weights_sha256, self.settings.kv_dtype)

    def max_model_len(self) -> int:
        """Return the context limit. Raises Unavailable while no worker is up to say it."""
        status = self.pool.status
        if status.max_model_len <= 0:
            raise Unavailable("No worker is ready: the model is being loaded.")
        return status.max_model_len

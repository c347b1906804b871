"""What names an answer: ids, and the fingerprint of what computed it."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata


@dataclass(frozen=True, slots=True)
class Identity:
    """The fields that every chunk of an answer repeats. ``model`` is the name that the client used."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def new_identity(prefix: str, model: str, system_fingerprint: str) -> Identity:
    """Name a new answer: ``prefix`` is the shape's own, as "chatcmpl-"."""
    return Identity(f"{prefix}{secrets.token_hex(16)}", int(time.time()), model, system_fingerprint)


@cache
def fingerprint(weights_sha256: str, kv_dtype: str) -> str:
    """Return what stays the same as long as weights, type of the KV cache and server version do: then the same request gives the same
    answer."""
    digest = hashlib.sha256(f"{weights_sha256} {metadata.version('tritserve')} {kv_dtype}".encode()).hexdigest()
    return f"fp_{digest[:12]}"

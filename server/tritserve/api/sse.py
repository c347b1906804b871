"""Server-sent events as bytes. Pure."""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def data(payload: bytes) -> bytes:
    """Frame one event. ``payload`` is JSON, which has no line breaks."""
    return b"data: " + payload + b"\n\n"


def event(name: str, payload: bytes) -> bytes:
    """Frame one event with a name. ``payload`` is JSON, which has no line breaks."""
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"

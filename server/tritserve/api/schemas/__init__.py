"""Wire models: what clients send (pydantic) and what they get (msgspec). Imported by ``api`` only."""

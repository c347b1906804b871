"""The chain hash of full KV blocks: what makes a cached block recognisable.

A block's K and V depend on all tokens up to its end, so its name is SHA-256 over (the name of the block before it, its token
ids). The chain starts from the cache salt: prefixes with different salts never share a block. SHA-256 rather than a
fast hash because whoever finds a collision reads somebody else's prompt.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_TOKENS = 16
"""Tokens of one block; TRIT_BLOCK_TOKENS."""
_DOMAIN = b"tritserve kv chain 1\0"


def root_hash(cache_salt: bytes) -> bytes:
    """Return the 32 bytes that stand before the first block."""
    return hashlib.sha256(_DOMAIN + cache_salt).digest()


def block_hash(parent: bytes, token_ids: NDArray[np.int32]) -> bytes:
    """Return the name of a full block: ``parent`` (32 bytes), ``token_ids`` (BLOCK_TOKENS,) int32, hashed little endian."""
    return hashlib.sha256(parent + token_ids.astype("<i4", copy=False).tobytes()).digest()


def blocks_for(num_tokens: int) -> int:
    """Return how many blocks hold ``num_tokens``."""
    return -(-num_tokens // BLOCK_TOKENS)

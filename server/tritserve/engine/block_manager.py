"""Which KV block belongs to whom: reference counts, the prefix cache, eviction. Pure bookkeeping, no memory is touched.

PagedAttention (Kwon et al. 2023, section 4): a sequence's K and V live in fixed blocks found through its block table, so memory
is taken a block at a time and shared by reference. A block is in exactly one of three places:

    blank    free, holds nothing worth keeping
    cached   free, but holds a committed full block that a later prefix may hit; the least recently used goes first
    used     referenced by one or more sequences

Only a *committed* block can be hit: it is full, and the step that wrote it is over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BlockId = NewType("BlockId", int)


class OutOfBlocks(Exception):
    """More blocks were asked for than are free."""


class IntegrityError(Exception):
    """The bookkeeping contradicts itself: a bug, never a load condition."""


class BlockManager:
    """Hand out, share, keep and evict the blocks 0 .. num_blocks - 1."""

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}, expected at least 1")
        self.num_blocks = num_blocks
        self.num_evictions = 0
        self._blank = [BlockId(block) for block in reversed(range(num_blocks))]
        self._cached: OrderedDict[BlockId, None] = OrderedDict()
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._by_hash: dict[bytes, BlockId] = {}
        self._stale: list[BlockId] = []

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks referenced by a sequence."""
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Free blocks that a prefix could still hit."""
        return len(self._cached)

    def adopt(self, found: Mapping[int, bytes]) -> int:
        """Keep committed blocks that an earlier process left, as block -> name. Returns how many held something new.

        Only before anything was allocated. Raises IntegrityError otherwise.
        """
        if len(self._blank) != self.num_blocks:
            raise IntegrityError("blocks can only be adopted while all are blank")
        for block, digest in found.items():
            if digest not in self._by_hash:
                self._cached[BlockId(block)] = None
                self._name(BlockId(block), digest)
        self._blank = [block for block in self._blank if block not in self._cached]
        return len(self._cached)

    def blank_blocks(self) -> list[BlockId]:
        """Return the free blocks that hold nothing."""
        return list(self._blank)

    def lookup(self, hashes: Iterable[bytes]) -> list[BlockId]:
        """Return the blocks of the longest cached prefix of a chain. Takes no reference."""
        blocks: list[BlockId] = []
        for digest in hashes:
            block = self._by_hash.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def can_allocate(self, count: int, shared: Sequence[BlockId] = ()) -> bool:
        """Say whether ``count`` new blocks are there once ``shared`` (from ``lookup``) are taken."""
        return self.num_free - sum(1 for block in shared if not self._ref_counts[block]) >= count

    def share(self, blocks: Iterable[BlockId]) -> None:
        """Take a reference to committed blocks."""
        for block in blocks:
            if self._hashes[block] is None:
                raise IntegrityError(f"block {block} is not committed and cannot be shared")
            if not self._ref_counts[block]:
                del self._cached[block]
            self._ref_counts[block] += 1

    def allocate(self, count: int) -> list[BlockId]:
        """Take blocks to write to: blank ones first, then the least recently used cached ones.

        Raises OutOfBlocks, and takes none, if fewer are free.
        """
        if count > self.num_free:
            raise OutOfBlocks(f"{count} blocks asked for, {self.num_free} of {self.num_blocks} free")
        return [self._take() for _ in range(count)]

    def release(self, blocks: Sequence[BlockId]) -> None:
        """Give a sequence's references back, ``blocks`` in table order.

        The tail is freed first and so evicted first: a chain is only reachable from its start.
        """
        for block in reversed(blocks):
            if self._ref_counts[block] < 1:
                raise IntegrityError(f"block {block} is released but not in use")
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if self._hashes[block] is None:
                self._blank.append(block)
            else:
                self._cached[block] = None

    def commit(self, block: BlockId, digest: bytes) -> bool:
        """Make a full, computed block findable; False if another block already holds the same content."""
        if not self._ref_counts[block]:
            raise IntegrityError(f"block {block} is committed but not in use")
        if digest in self._by_hash:
            return False
        if self._hashes[block] is not None:
            raise IntegrityError(f"block {block} is committed twice under different names")
        self._name(block, digest)
        return True

    def drain_stale(self) -> list[BlockId]:
        """Return the blocks whose old content was given up since the last call: their marks must go before they are written."""
        stale, self._stale = self._stale, []
        return stale

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block is in exactly one place and every name points to its block."""
        blank, cached = set(self._blank), set(self._cached)
        used = {BlockId(block) for block, count in enumerate(self._ref_counts) if count}
        if len(blank) != len(self._blank):
            raise IntegrityError("a block is blank twice")
        if blank & cached or blank & used or cached & used:
            raise IntegrityError("a block is in two places")
        if len(blank) + len(cached) + len(used) != self.num_blocks:
            raise IntegrityError("a block is nowhere")
        named = {BlockId(block): digest for block, digest in enumerate(self._hashes) if digest is not None}
        if {digest: block for block, digest in named.items()} != self._by_hash:
            raise IntegrityError("names and blocks disagree")
        if blank & named.keys() or cached - named.keys():
            raise IntegrityError("a blank block has a name, or a cached one has none")

    def _take(self) -> BlockId:
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            digest = self._hashes[block]
            if digest is None:
                raise IntegrityError(f"block {block} is cached without a name")
            del self._by_hash[digest]
            self._hashes[block] = None
            self._stale.append(block)
            self.num_evictions += 1
        self._ref_counts[block] = 1
        return block

    def _name(self, block: BlockId, digest: bytes) -> None:
        self._hashes[block] = digest
        self._by_hash[digest] = block

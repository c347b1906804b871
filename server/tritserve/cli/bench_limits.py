"""The machine's limits, measured between pieces of work: neighbours and clocks drift, so a limit belongs to its minute.

Read bandwidth is measured both ways: plain and sequential, as shares of it are stated, and by the best of ``PATTERNS``.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tritserve.cli.bench_report import Peak, spread
from tritserve.isa import Isa
from tritserve.machine import largest_cache_bytes
from tritserve.native.lib import isa_supported, measure_int8, measure_read
from tritserve.native.types import ReadPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritserve.model.packed_file import PackedModel

_BUFFER_BYTES = 256 * 1024 * 1024
_LEAST_BUFFER_BYTES = 64 * 1024 * 1024
_INT8_SECONDS = 0.05
PATTERNS = (ReadPattern(), ReadPattern(streams=2), ReadPattern(streams=4), ReadPattern(streams=4, prefetch_bytes=1024))
"""Tried for the best way to read, over the model's file and over memory in huge pages."""


class Limits:
    """Takes samples of read bandwidth (bytes per second) and int8 peaks (operations per second) and keeps them all."""

    def __init__(self, buffer_bytes: int, packed: PackedModel | None = None) -> None:
        """``buffer_bytes`` are read to measure the memory: of the mapped model where it is that large, else of memory of our own."""
        self._buffer_bytes = buffer_bytes
        self._packed = packed if packed is not None and packed.file_bytes >= buffer_bytes else None
        self._read: defaultdict[int, list[float]] = defaultdict(list)
        self._best: dict[int, Best] = {}
        self._int8: defaultdict[tuple[Isa, int], list[float]] = defaultdict(list)

    def sample(self, isa: Isa, threads: int) -> Peak:
        """Measure both limits once. Raises NativeError."""
        read = measure_read(self._buffer_bytes, n_threads=threads, repeats=2, fd=self._fd)
        int8 = measure_int8(isa, n_threads=threads, seconds=_INT8_SECONDS)
        self._read[threads].append(read)
        self._int8[isa, threads].append(int8)
        return Peak(read, int8)

    def sample_all(self, threads: int) -> None:
        """Measure every instruction set that can run here and the best way to read, with one thread and with ``threads``.

        Raises NativeError.
        """
        for count in sorted({1, threads}):
            for isa in supported_isas():
                self.sample(isa, count)
            self._best[count] = best_read(self._buffer_bytes, count, self._fd)

    def report(self) -> dict[str, object]:
        """Return the spread of all samples, by number of threads."""
        int8: dict[str, dict[str, object]] = {}
        for (isa, threads), samples in sorted(self._int8.items()):
            int8.setdefault(isa.label, {})[str(threads)] = spread(samples)
        read = {str(threads): spread(samples) for threads, samples in sorted(self._read.items())}
        return {
            "read_from": "memory of its own" if self._packed is None else "mapped file",
            "read_bytes_per_second": read,
            "best_read": {str(threads): found._asdict() for threads, found in sorted(self._best.items())},
            "int8_ops_per_second": int8,
        }

    @property
    def _fd(self) -> int:
        return -1 if self._packed is None else self._packed.fd


class Best(NamedTuple):
    """The fastest read that was found, and how."""

    bytes_per_second: float
    pattern: str


def best_read(num_bytes: int, threads: int, fd: int) -> Best:
    """Return the fastest of ``PATTERNS`` over the file open at ``fd`` (-1: none) and over huge pages. Raises NativeError."""
    found: list[tuple[float, str]] = []
    for pattern in PATTERNS:
        huge = replace(pattern, huge_pages=True)
        tried = [(huge, -1, "huge pages"), (pattern, fd, "memory of its own" if fd < 0 else "mapped file")]
        for each, source, name in tried:
            rate = measure_read(num_bytes, n_threads=threads, repeats=2, pattern=each, fd=source)
            found.append((rate, f"{name}, {_words(pattern)}"))
    return Best(*max(found))


def read_facts(packed: PackedModel, threads: int, available_bytes: int) -> dict[str, object]:
    """Return the read bandwidth with so many threads both ways, in words. Raises NativeError."""
    num_bytes = buffer_bytes(available_bytes, largest_cache_bytes())
    mapped = packed.file_bytes >= num_bytes
    fd = packed.fd if mapped else -1
    plain, best = measure_read(num_bytes, n_threads=threads, repeats=2, fd=fd), best_read(num_bytes, threads, fd)
    source = "mapped file" if mapped else "memory of its own"
    return {
        "threads": threads,
        "sequential": f"{plain / 1e9:.1f} GB/s ({source})",
        "best": f"{best.bytes_per_second / 1e9:.1f} GB/s ({best.pattern})",
    }


def _words(pattern: ReadPattern) -> str:
    streams = f"{pattern.streams} stream{'s' * (pattern.streams > 1)}"
    return f"{streams}, prefetch {pattern.prefetch_bytes:,} ahead" if pattern.prefetch_bytes else streams


def buffer_bytes(available: int, largest_cache: int) -> int:
    """Return how much to read: several times the largest cache, but at most an eighth of the memory that is available."""
    return max(_LEAST_BUFFER_BYTES, min(max(_BUFFER_BYTES, 4 * largest_cache), available // 8))


def supported_isas() -> list[Isa]:
    """Return the instruction sets that this CPU, operating system and build can run."""
    return [isa for isa in Isa if isa is not Isa.AUTO and isa_supported(isa)]


def middle(peaks: Sequence[Peak]) -> Peak:
    """Return the median of each limit."""
    return Peak(
        statistics.median(peak.read_bytes_per_second for peak in peaks),
        statistics.median(peak.int8_ops_per_second for peak in peaks),
    )

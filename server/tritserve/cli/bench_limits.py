"""The machine's limits, measured between pieces of work: neighbours and clocks drift, so a limit belongs to its minute."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING

from tritserve.cli.bench_report import Peak, spread
from tritserve.isa import Isa
from tritserve.native.lib import isa_supported, measure_int8, measure_read

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUFFER_BYTES = 256 * 1024 * 1024
_LEAST_BUFFER_BYTES = 64 * 1024 * 1024
_INT8_SECONDS = 0.05


class Limits:
    """Takes samples of read bandwidth (bytes per second) and int8 peaks (operations per second) and keeps them all."""

    def __init__(self, buffer_bytes: int) -> None:
        """``buffer_bytes`` are read to measure the memory."""
        self._buffer_bytes = buffer_bytes
        self._read: defaultdict[int, list[float]] = defaultdict(list)
        self._int8: defaultdict[tuple[Isa, int], list[float]] = defaultdict(list)

    def sample(self, isa: Isa, threads: int) -> Peak:
        """Measure both limits once. Raises NativeError."""
        read = measure_read(self._buffer_bytes, n_threads=threads, repeats=2)
        int8 = measure_int8(isa, n_threads=threads, seconds=_INT8_SECONDS)
        self._read[threads].append(read)
        self._int8[isa, threads].append(int8)
        return Peak(read, int8)

    def sample_all(self, threads: int) -> None:
        """Measure every instruction set that can run here, with one thread and with ``threads``. Raises NativeError."""
        for isa in supported_isas():
            for count in sorted({1, threads}):
                self.sample(isa, count)

    def report(self) -> dict[str, object]:
        """Return the spread of all samples, by number of threads."""
        int8: dict[str, dict[str, object]] = {}
        for (isa, threads), samples in sorted(self._int8.items()):
            int8.setdefault(isa.label, {})[str(threads)] = spread(samples)
        read = {str(threads): spread(samples) for threads, samples in sorted(self._read.items())}
        return {"read_bytes_per_second": read, "int8_ops_per_second": int8}


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

"""What grammars cost, beside the steps: one thread compiles them while sequences wait, one computes masks during the forward pass."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from tritserve.grammar_cache import GrammarCache
from tritserve.protocol import GrammarDone, GrammarStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from tritserve.engine.grammar import GrammarCompiler, Matcher
    from tritserve.protocol import Submit
    from tritserve.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

CACHE_BYTES = 64 * 1024 * 1024
_COMPILE_NICENESS = 19


class Compiled(NamedTuple):
    """A sequence's grammar is there: its matcher, past the tokens the sequence has, or None if it cannot be used."""

    seq_id: int
    matcher: Matcher | None


class GrammarThreads:
    """Start with the first grammar; a worker without one has no such threads. ``wake_fd`` is readable when ``take_compiled`` has news."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.report: Callable[[GrammarStarted | GrammarDone], None] = lambda message: None
        self._read_vocabulary = read_vocabulary
        self._compiler: GrammarCompiler | None = None
        self._cache: GrammarCache[LLMatcher] = GrammarCache(CACHE_BYTES, entry_bytes=256 * 1024, source_factor=64)
        self._submits: queue.SimpleQueue[tuple[Submit, NDArray[np.uint32] | None]] = queue.SimpleQueue()
        self._compiled: queue.SimpleQueue[Compiled] = queue.SimpleQueue()
        self._masks: queue.SimpleQueue[Sequence[Matcher]] = queue.SimpleQueue()
        self._masks_done = threading.Event()
        self._mask_seconds: list[float] = []
        self._threads: list[threading.Thread] = []

    def compile(self, submit: Submit, allowed: NDArray[np.uint32] | None) -> None:
        """Make a sequence's matcher; ``allowed``: the only ids it may use at all. Its ``Compiled`` comes later."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=target, name=name, daemon=True)
                for target, name in ((self._compile_all, "grammar-compile"), (self._mask_all, "grammar-mask"))
            ]
            for thread in self._threads:
                thread.start()
        self._submits.put((submit, allowed))

    def take_compiled(self) -> list[Compiled]:
        """Return what is there since the last call."""
        found: list[Compiled] = []
        if not self._threads:
            return found
        # In this order: what comes after the queue was emptied is announced once more.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)
        while not self._compiled.empty():
            found.append(self._compiled.get())
        return found

    def begin_masks(self, matchers: Sequence[Matcher]) -> None:
        """Start computing the masks of a step, in this order. The matchers belong to the thread until ``end_masks``."""
        for matcher in matchers:
            matcher.begin()
        self._masks_done.clear()
        self._masks.put(matchers)

    def end_masks(self) -> list[float]:
        """Wait until they are all there; return the seconds each took."""
        self._masks_done.wait()
        return self._mask_seconds

    def _mask_all(self) -> None:
        while True:
            seconds = []
            for matcher in self._masks.get():
                begun = time.perf_counter()
                matcher.fill()
                seconds.append(time.perf_counter() - begun)
            self._mask_seconds = seconds
            self._masks_done.set()

    def _compile_all(self) -> None:
        # The steps of others need the cores more.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _COMPILE_NICENESS)
        try:
            self._compile_each()
        except BaseException:  # a panic of the library's Rust code is no Exception
            logger.exception("compiling grammars failed")
            os._exit(1)  # as everything else that goes wrong here; the front knows which grammar it was

    def _compile_each(self) -> None:
        while True:
            submit, allowed = self._submits.get()
            self.report(GrammarStarted(submit.seq_id))
            begun = time.perf_counter()
            is_cached, matcher = self._compile(submit, allowed)
            self.report(GrammarDone(submit.seq_id, None if is_cached else time.perf_counter() - begun))
            self._compiled.put(Compiled(submit.seq_id, matcher))
            os.eventfd_write(self.wake_fd, 1)

    def _compile(self, submit: Submit, allowed: NDArray[np.uint32] | None) -> tuple[bool, Matcher | None]:
        """Return whether the grammar was in the cache, and the matcher past the tokens that were delivered before."""
        # Imported here: a worker without grammars starts 60 ms sooner.
        from tritserve.engine.grammar import GrammarCompiler, GrammarError, Matcher

        if submit.grammar is None:
            return True, None
        prototype = self._cache.find(submit.grammar)
        is_cached = prototype is not None
        try:
            if self._compiler is None:
                self._compiler = GrammarCompiler(self._read_vocabulary())
            if prototype is None:
                prototype = self._compiler.compile(submit.grammar)
                self._cache.add(submit.grammar, prototype)
            matcher = Matcher(prototype, self._compiler, stop_token_ids=submit.stop_token_ids, allowed=allowed)
        except GrammarError:
            return is_cached, None
        return is_cached, matcher if matcher.accept(submit.forced) else None

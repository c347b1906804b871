"""Try a request's grammar out in a process of its own, before anything is queued: what it costs cannot hold up anybody else.

One process, one grammar at a time; it starts with the first grammar and again after one that was too costly for it. What was found is kept:
clients send the same few grammars again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING

import msgspec

from tritserve.errors import Overloaded, Unavailable
from tritserve.grammar_cache import GrammarCache
from tritserve.pool.launch import CHECKER_COMMAND, spawn_checker
from tritserve.protocol import FrameReader, GrammarVerdict, pack_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritserve.protocol import Grammar

MAX_WAITING = 64
CACHE_BYTES = 16 * 1024 * 1024
_START_SECONDS = 60.0
_WALL_SECONDS = 30.0  # beside the limit on processor time: it runs at a low priority
_EXIT_SECONDS = 0.5
_RECEIVE_BYTES = 64 * 1024


class GrammarChecker:
    """Belongs to one event loop, in the thread that lives as long as the server."""

    def __init__(self, model_path: Path, max_seconds: float, command: Sequence[str] = CHECKER_COMMAND) -> None:
        self._model_path = model_path
        self._max_seconds = max_seconds
        self._command = command
        self._known = GrammarCache[GrammarVerdict](CACHE_BYTES, entry_bytes=1024, source_factor=1)
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._process: _Checker | None = None

    async def check(self, grammar: Grammar) -> tuple[str | None, bool]:
        """Return why a grammar cannot be used (None: it can), and whether that was known. Raises Overloaded or Unavailable."""
        verdict = self._known.find(grammar)
        if verdict is not None:
            return verdict.refusal, True
        if self._num_waiting >= MAX_WAITING:
            raise Overloaded(
                f"The server is busy: {MAX_WAITING} grammars are waiting to be checked.",
                reason="queue_full",
                retry_after_seconds=self._max_seconds,
            )
        self._num_waiting += 1
        try:
            async with self._turn:
                verdict = self._known.find(grammar)  # somebody may have asked the same meanwhile
                if verdict is None:
                    verdict = await self._ask(grammar)
                    self._known.add(grammar, verdict)
        finally:
            self._num_waiting -= 1
        return verdict.refusal, False

    async def close(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    async def _ask(self, grammar: Grammar) -> GrammarVerdict:
        process = self._process
        try:
            if process is None:
                process = self._process = _Checker(self._command, self._model_path, self._max_seconds)
                if await process.receive(_START_SECONDS) is None:
                    raise Unavailable("Grammars cannot be checked: the process for it does not start.")
            await process.send(grammar)
            verdict = await process.receive(self._max_seconds + _WALL_SECONDS)
        except BaseException:  # whatever it answers now would be taken for an answer to the next grammar
            await self.close()
            raise
        if verdict is not None:
            return verdict
        self._process = None
        code = await process.end()
        if code == -signal.SIGPROF:
            return GrammarVerdict(f"compiling it takes more than {self._max_seconds:g} s")
        return GrammarVerdict("compiling it takes more memory or time than is allowed")


class _Checker:
    """One life of the process."""

    def __init__(self, command: Sequence[str], model_path: Path, max_seconds: float) -> None:
        """Start it. Raises Unavailable."""
        self._frames = FrameReader()
        try:
            self._process, self._socket = spawn_checker([*command, "--max-seconds", str(max_seconds)], str(model_path))
        except OSError as error:
            raise Unavailable("Grammars cannot be checked: no process can be started for it.") from error

    async def send(self, grammar: Grammar) -> None:
        """Send one; a process that is gone shows in ``receive``."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, pack_frame(msgspec.msgpack.encode(grammar)))

    async def receive(self, seconds: float) -> GrammarVerdict | None:
        """Return the next verdict; None if the process ended or was silent for so long."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                while data := await loop.sock_recv(self._socket, _RECEIVE_BYTES):
                    for payload in self._frames.feed(data):
                        return msgspec.msgpack.decode(payload, type=GrammarVerdict)
        return None

    async def end(self) -> int:
        """Kill and reap it; return its exit code, which is its own if it had ended by itself."""
        self._socket.close()
        try:
            return await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

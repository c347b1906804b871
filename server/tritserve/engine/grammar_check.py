"""The process that tries grammars out before they are admitted: ``python -m tritserve.engine.grammar_check``.

A grammar comes from anybody. What compiling it costs is bounded by the parser's limits, and here by the kernel too: processor time and memory
of this process, whose death is the answer "too costly". It compiles as a worker does, for the same vocabulary.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tritserve.engine.grammar import GrammarCompiler, GrammarError
from tritserve.engine.process import OrphanedError, confine, die_with_parent
from tritserve.model.packed_file import open_packed
from tritserve.protocol import FrameReader, Grammar, GrammarVerdict, pack_frame
from tritserve.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritserve.vocabulary import Vocabulary

MAX_MEMORY_BYTES = 512 * 1024 * 1024
_MORE_NICENESS = 10
_RECEIVE_BYTES = 256 * 1024


def main(arguments: Sequence[str] | None = None, read: Callable[[Path], Vocabulary] | None = None) -> int:
    """Check grammars until the socket ends. ``read`` finds the vocabulary of a model (tests replace it)."""
    parser = argparse.ArgumentParser(prog="tritserve.engine.grammar_check")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--max-seconds", type=float, required=True)
    options = parser.parse_args(arguments)
    try:
        die_with_parent(options.parent_pid)
    except OrphanedError:
        return 0
    confine()
    os.nice(_MORE_NICENESS)
    compiler = GrammarCompiler((read or _read_vocabulary)(options.model_path))
    limit = _address_space_bytes() + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with socket.socket(fileno=options.socket_fd) as channel:
        _serve(channel, compiler, options.max_seconds)
    return 0


def _serve(channel: socket.socket, compiler: GrammarCompiler, max_seconds: float) -> None:
    frames = FrameReader()
    _answer(channel, None)
    while data := channel.recv(_RECEIVE_BYTES):
        for payload in frames.feed(data):
            grammar = msgspec.msgpack.decode(payload, type=Grammar)
            signal.setitimer(signal.ITIMER_PROF, max_seconds)  # its signal, not handled, ends the process
            refusal = _try_out(compiler, grammar)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _answer(channel, refusal)


def _try_out(compiler: GrammarCompiler, grammar: Grammar) -> str | None:
    try:
        compiler.try_out(grammar)
    except GrammarError as error:
        return str(error)
    return None


def _answer(channel: socket.socket, refusal: str | None) -> None:
    channel.sendall(pack_frame(msgspec.msgpack.encode(GrammarVerdict(refusal))))


def _read_vocabulary(model_path: Path) -> Vocabulary:
    with open_packed(model_path) as packed:
        return read_vocabulary(packed.read_tokenizer(), packed.header.architecture.vocab)


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())

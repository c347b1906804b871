"""Start a worker process: inherited socket, shared KV memory, nothing else."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tritserve.settings import worker_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER_COMMAND = (sys.executable, "-m", "tritserve.engine.worker")
CHECKER_COMMAND = (sys.executable, "-m", "tritserve.engine.grammar_check")


def create_kv_memory(num_bytes: int) -> int:
    """Return the descriptor of anonymous shared memory: sparse until written, of a size that nobody can change.

    The front keeps it open, so that a worker's successor finds what its predecessor computed.
    """
    fd = os.memfd_create("tritserve-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, num_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def spawn(command: Sequence[str], kv_fd: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker and return it with the front's end of its socket.

    To be called from the thread that lives as long as the server: the kernel kills the worker when that thread ends.
    """
    return _spawn([*command, "--kv-fd", str(kv_fd)], (kv_fd,))


def spawn_checker(command: Sequence[str], model_path: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process that tries grammars out for a model; otherwise as ``spawn``."""
    return _spawn([*command, "--model-path", model_path], ())


def _spawn(command: Sequence[str], fds: tuple[int, ...]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        options = ["--socket-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())]
        try:
            process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),
                pass_fds=(theirs.fileno(), *fds),
                env=worker_environment(),
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, or something that is not a file stands in for it
        return subprocess.DEVNULL

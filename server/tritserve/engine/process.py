"""How a worker process protects its parent and itself: it never outlives the front and asks for nothing it does not need."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_NICENESS = 5
_OOM_SCORE_ADJ = 500


class OrphanedError(Exception):
    """The parent was gone before the worker could tie itself to it."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's spawning thread ends. Raises OrphanedError if the parent is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that died before the call above sends no signal any more.
    if os.getppid() != parent_pid:
        raise OrphanedError(f"the parent is {os.getppid()}, expected {parent_pid}")


def confine() -> None:
    """Give up privileges to come and core dumps (they would hold prompts); leave the terminal's signals to the front.

    Works at a lower priority than the front, so that computing never starves the event loop, and offers itself first when
    memory runs out: the front can replace a worker, nobody replaces the front.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")

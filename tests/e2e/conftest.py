"""One running server for all suites that do not change how it runs, and a way to start others."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from live_server import LiveServer

if TYPE_CHECKING:
    from openai import OpenAI

Start = Callable[..., LiveServer]


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo is kept packed: converted once, by the first server."""
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="module")
def start(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server with arguments of its own; it is gone at the module's end at the latest."""
    logs = tmp_path_factory.mktemp("logs")
    numbers = itertools.count()
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            LiveServer(model_cache, *arguments, log_path=logs / f"{next(numbers)}.log", **options)
        )


@pytest.fixture(scope="session")
def shared(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server that most tests share."""
    log_path = tmp_path_factory.mktemp("shared") / "server.log"
    with LiveServer(model_cache, "--kv-cache-bytes", str(64 * 2**20), "--threads", "2", log_path=log_path) as server:
        yield server


@pytest.fixture
def live(shared: LiveServer) -> Iterator[LiveServer]:
    """The shared server, which every test must leave alive, with nothing running."""
    workers = shared.workers()
    yield shared
    assert shared.process.poll() is None, shared.log()
    shared.settle()
    assert shared.workers() == workers or not workers, f"a worker was replaced: {shared.log()[-2000:]}"


@pytest.fixture
def sdk(live: LiveServer) -> Iterator[OpenAI]:
    """The official client, connected to the shared server."""
    with live.sdk() as client:
        yield client

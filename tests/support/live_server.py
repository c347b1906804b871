"""A real server in a process of its own, started from the command line and looked at from outside only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

START_SECONDS = 60.0
WAIT_SECONDS = 30.0
_tick = threading.Event()  # never set: waiting for it is a pause between two looks


def eventually(look: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Look again until it is so; fail the test when it is not in time."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        _tick.wait(0.005)


def environment(cache: Path, **variables: str) -> dict[str, str]:
    """What a command is started with: nothing of the server's settings but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITSERVE_")}
    return {**kept, "TRITSERVE_CACHE_DIR": str(cache), "NO_COLOR": "1", "COLUMNS": "200", **variables}


class LiveServer:
    """``tritserve serve ...`` as a process; its log goes to ``log_path``. Ready when made, unless ``wait`` is false."""

    def __init__(self, cache: Path, *arguments: str, log_path: Path, wait: bool = True, **variables: str) -> None:
        self.log_path = log_path
        command = [sys.executable, "-m", "tritserve", "serve", *arguments, "--port", "0"]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(cache, **variables)
            )
        self.port = 0
        self._client: httpx.Client | None = None
        try:
            eventually(self._finds_port, f"a listening port; log: {log_path}", START_SECONDS)
            if wait:
                eventually(self._is_ready, f"ready; log: {log_path}", START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def sdk(self) -> OpenAI:
        """Return the official client; it does not retry, so that what the server says is what the test sees."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=WAIT_SECONDS * 2)

    def http(self, **options: object) -> httpx.Client:
        """Return a plain client."""
        return httpx.Client(base_url=self.url, timeout=WAIT_SECONDS * 2, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text(errors="replace")

    # --- from outside -------------------------------------------------------------------------------------------------

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels; ``name`` without the prefix."""
        return sum_of(self.scrape(), name, **labels)

    def scrape(self) -> str:
        """Return the metrics as they are exposed."""
        if self._client is None:
            self._client = self.http()
        return self._client.get("/metrics").text

    def settle(self) -> None:
        """Wait until nothing runs, and every block of KV memory is given back."""

        def is_idle() -> bool:
            scrape = self.scrape()
            return not any(sum_of(scrape, n) for n in ("requests_running", "requests_waiting", "kv_cache_used_bytes"))

        eventually(is_idle, "nothing running and no block in use")

    def processes(self) -> list[int]:
        """Pids of the server and everything below it."""
        found = [self.process.pid]
        for pid in found:
            found += children(pid)
        return found

    def workers(self) -> list[int]:
        """Pids of the live worker processes."""
        return [pid for pid in children(self.process.pid) if b"tritserve.engine.worker" in _cmdline(pid)]

    def sockets(self, table: str) -> list[list[str]]:
        """Rows of /proc/net/``table`` (tcp, tcp6, udp, unix) that belong to the server or its children."""
        inodes = set()
        for pid in self.processes():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = re.fullmatch(r"socket:\[(\d+)\]", _readlink(link))
                if target:
                    inodes.add(target[1])
        column = 6 if table == "unix" else 9
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        return [row for row in rows if row[column] in inodes]

    def rss_bytes(self) -> int:
        """Memory of the front process alone: what a request can make grow. Shared pages do not count."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0])

    # --- end ----------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = WAIT_SECONDS * 2) -> int:
        """Return the exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it now; nothing if it has ended."""
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _finds_port(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with {self.process.returncode}: {self.log()}")
        rows = [row for row in self.sockets("tcp") if row[3] == "0A"]
        self.port = int(rows[0][1].split(":")[1], 16) if rows else 0
        return bool(rows)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with {self.process.returncode}: {self.log()}")
        return "is ready on" in self.log()  # the banner comes when it is ready and nothing of the start is left running


def sum_of(exposition: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels in a scrape."""
    full = f"tritserve_{name}"
    lines = "".join(line + "\n" for line in exposition.splitlines() if line.startswith(full))
    samples = [s for family in text_string_to_metric_families(lines) for s in family.samples if s.name == full]
    assert samples, f"no metric {full}"
    return float(sum(s.value for s in samples if labels.items() <= s.labels.items()))


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process; none if it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _readlink(link: Path) -> str:
    try:
        return os.readlink(link)
    except (FileNotFoundError, ProcessLookupError):
        return ""

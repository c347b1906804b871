"""Run every query of the dashboard through a real Prometheus that scrapes a real server: none may come back empty.

    python deploy/check_dashboard.py        # needs the `prometheus` and `promtool` programs and an installed tritserve

A renamed or lost metric shows as an empty answer. Prints one line per panel and a JSON summary; exits 1 if a query failed.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "tritserve.json"
# What may be empty, and why.
MAY_BE_EMPTY = {
    "CPU throttling": "absent where no control group limits the processor time",
}
SCRAPE_SECONDS = 1
NUM_SCRAPES = 8
RATE_INTERVAL = "30s"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def program(*command: str) -> Iterator[None]:
    """Run a program quietly; stop it at the end."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(url: str, seconds: float = 60) -> None:
    """Wait until the URL answers 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not answer within {seconds} s")


def make_load(server: str) -> None:
    """Ask for a few of everything: short, long, streamed, repeated, refused, left by the client."""
    story = {"model": "demo", "messages": [{"role": "user", "content": "Tell me a story about a cat."}]}
    with httpx.Client(base_url=server, timeout=60) as client:
        for seed in range(3):
            client.post("/v1/chat/completions", json={**story, "seed": seed}).raise_for_status()
            client.post("/v1/chat/completions", json={**story, "seed": seed, "n": 2}).raise_for_status()
            with client.stream("POST", "/v1/chat/completions", json={**story, "stream": True}) as response:
                next(response.iter_raw())  # and leave
        # A prompt over several blocks, twice: the second finds the first's prefix.
        for _ in range(2):
            client.post("/v1/completions", json={"model": "demo", "prompt": "Once upon a time. " * 20})
        client.post("/v1/chat/completions", json={**story, "temperature": 9})
        client.get("/no-such-route")


def expressions() -> list[tuple[str, str]]:
    """Return (panel, query) with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def ask(prometheus: str, query: str) -> list[dict[str, Any]]:
    """Return the samples of an instant query that are numbers."""
    response = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).raise_for_status()
    samples: list[dict[str, Any]] = response.json()["data"]["result"]
    return [sample for sample in samples if not math.isnan(float(sample["value"][1]))]


def check(folder: Path) -> list[str]:
    """Start everything, load the server, ask every query; return the panels with an empty one."""
    server, prometheus = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {SCRAPE_SECONDS}s}}\n"
        f"scrape_configs: [{{job_name: tritserve, static_configs: [{{targets: ['{server.removeprefix('http://')}']}}]}}]\n"
    )
    serve = (sys.executable, "-m", "tritserve", "serve", "--port", server.rsplit(":", 1)[1])
    scrape = ("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}")
    with program(*serve), program(*scrape, f"--web.listen-address={prometheus.removeprefix('http://')}"):
        wait_for(f"{server}/ready")
        wait_for(f"{prometheus}/-/ready")
        found = subprocess.run(
            ["promtool", "check", "metrics"], input=httpx.get(f"{server}/metrics").content, capture_output=True
        )
        print(f"promtool check metrics: exit {found.returncode} {found.stderr.decode().strip()}")
        empty = ["promtool check metrics"] if found.returncode else []
        for _ in range(NUM_SCRAPES):
            make_load(server)
            time.sleep(SCRAPE_SECONDS)
        for title, query in expressions():
            samples = ask(prometheus, query)
            note = f"{len(samples)} series" if samples else f"EMPTY: {query}"
            if not samples and title in MAY_BE_EMPTY:
                note = f"empty, allowed: {MAY_BE_EMPTY[title]}"
            elif not samples:
                empty.append(title)
            print(f"{title}: {note}", flush=True)
    return empty


def main() -> None:
    """Check and summarise."""
    with tempfile.TemporaryDirectory() as folder:
        failed = check(Path(folder))
    print(json.dumps({"queries": len(expressions()), "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

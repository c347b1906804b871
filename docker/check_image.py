"""Build the image and check from outside what the README and SECURITY.md say about it. Needs buildah, podman and runc; no Docker.

    python docker/check_image.py --base localhost/python:3.13-slim [--ca-bundle /etc/ssl/certs/ca-certificates.crt]

Prints one line per check and a JSON summary; exits 1 if any failed. Needs the `openai` package for the SDK call.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
TAG = "localhost/tritserve:check"
PORT = 8701
URL = f"http://127.0.0.1:{PORT}"
HARDENED = [
    "--read-only",
    *("--tmpfs", "/tmp"),
    *("--cap-drop", "all"),
    *("--security-opt", "no-new-privileges"),
    *("--memory", "1g"),
    *("--cpus", "1"),
    *("--pids-limit", "128"),
]


@dataclass
class Report:
    """The checks that ran, in order."""

    results: dict[str, str] = field(default_factory=dict)

    def check(self, name: str, test: Callable[[], object]) -> None:
        """Run one check: it passes unless it raises."""
        try:
            note = test()
            self.results[name] = "ok" if note is None else f"ok: {note}"
        except Exception as error:
            self.results[name] = f"FAILED: {error}"
        print(f"{name}: {self.results[name]}", flush=True)


def sh(*command: str, timeout: float = 600) -> str:
    """Run a command; return its output. Raises RuntimeError with what it said when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "STORAGE_DRIVER": "overlay"}
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command[:4])} ... exited {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
        )
    return done.stdout.strip()


def must(condition: bool, what: str) -> None:
    """Raise unless the condition holds (asserts may be switched off)."""
    if not condition:
        raise RuntimeError(what)


def build(base: str, ca_bundle: str | None) -> None:
    """Build the image with buildah on the given base."""
    extra = ["--volume", f"{ca_bundle}:{ca_bundle}:ro"] if ca_bundle else []
    sh(
        *("buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "docker"),
        *("--build-arg", f"PYTHON_IMAGE={base}", *extra, "--file", "docker/Dockerfile", "--tag", TAG, str(ROOT)),
        timeout=1800,
    )


@contextlib.contextmanager
def container(*options: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """Run the image in the background; yield the container's id; remove it at the end."""
    identifier = sh(
        *("podman", "--runtime", "runc", "run", "--detach", "--pull=never", "--health-interval=disable"),
        *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "-p", f"127.0.0.1:{PORT}:8000"),
        *options,
        TAG,
        *command,
    )
    try:
        yield identifier
    finally:
        with contextlib.suppress(RuntimeError):
            sh("podman", "rm", "--force", "--volumes", identifier)


def wait_ready(identifier: str, seconds: float = 60) -> float:
    """Wait until /ready answers 200; return the seconds it took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"{URL}/ready", timeout=2) as response,
        ):
            if response.status == 200:
                return time.monotonic() - start
        time.sleep(0.2)
    raise RuntimeError(f"not ready after {seconds} s; the log ends with: {logs(identifier)[-1500:]}")


def logs(identifier: str) -> str:
    """Return what the container printed."""
    done = subprocess.run(["podman", "logs", identifier], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def inside(identifier: str, code: str) -> str:
    """Run Python inside the container."""
    return sh("podman", "exec", identifier, "/opt/tritserve/bin/python", "-c", code)


def status_field(identifier: str, name: str) -> str:
    """Return a field of the server's own /proc/1/status."""
    text = inside(identifier, "print(open('/proc/1/status').read())")
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name + ":"))


def sdk_call() -> str:
    """Stream an answer through the official SDK."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{URL}/v1", api_key="none")
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=16, stream=True, seed=1
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    must(bool(text), "the answer is empty")
    return f"{len(text)} characters from {model}"


def hardened_checks(report: Report) -> None:
    """Everything that is asked of a hardened container."""
    with container(*HARDENED, "--env", "TRITSERVE_ALLOW_NO_KEY=yes") as it:
        report.check("starts hardened", lambda: f"ready after {wait_ready(it):.1f} s")
        report.check("answers the official SDK", sdk_call)
        report.check(
            "runs as 10001", lambda: must(status_field(it, "Uid").split()[0] == "10001", status_field(it, "Uid"))
        )
        report.check(
            "has no capability", lambda: must(int(status_field(it, "CapEff"), 16) == 0, status_field(it, "CapEff"))
        )
        report.check("gains no privileges", lambda: must(status_field(it, "NoNewPrivs") == "1", "NoNewPrivs is 0"))
        report.check("is under seccomp", lambda: must(status_field(it, "Seccomp") == "2", status_field(it, "Seccomp")))
        report.check("root is read-only", lambda: read_only(it))
        report.check("follows the CPU limit", lambda: threads_follow(it))
        report.check("health check passes", lambda: sh("podman", "healthcheck", "run", it))
        report.check("has no compiler, no pip, no setuid", lambda: nothing_extra(it))
        report.check("refuses a body past the limit", refuses_large_bodies)
        report.check("stops with 0 within the drain limit", lambda: stops(it))


def read_only(identifier: str) -> None:
    """Writing outside /tmp and the volumes must fail."""
    code = "import pathlib\nfor p in ('/x', '/opt/tritserve/x'):\n try:\n  pathlib.Path(p).write_text('')\n  print(p)\n except OSError: pass"
    must(inside(identifier, code) == "", "something outside the volumes is writable")


def threads_follow(identifier: str) -> str:
    """With --cpus 1 the server must compute with one thread, and memory must be the cgroup's."""
    del identifier
    with urllib.request.urlopen(f"{URL}/props", timeout=5) as response:
        properties = json.load(response)
    must(properties.get("threads") == 1, f"threads is {properties.get('threads')} under --cpus 1")
    return "1 thread under --cpus 1"


def nothing_extra(identifier: str) -> None:
    """No compiler, no pip, no file with the setuid or setgid bit."""
    code = (
        "import os, shutil, stat\n"
        "found = [name for name in ('gcc', 'cc', 'make', 'cmake', 'pip') if shutil.which(name)]\n"
        "for folder, names, files in os.walk('/'):\n"
        "    names[:] = [n for n in names if folder != '/' or n not in ('proc', 'sys', 'dev')]\n"
        "    for f in files:\n"
        "        p = os.path.join(folder, f)\n"
        "        if os.lstat(p).st_mode & (stat.S_ISUID | stat.S_ISGID): found.append(p)\n"
        "print(' '.join(found))"
    )
    found = inside(identifier, code)
    must(found == "", found)


def refuses_large_bodies() -> None:
    """A body past the limit must be refused before it is read."""
    request = urllib.request.Request(
        f"{URL}/v1/completions", data=b" " * 8_000_000, headers={"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        must(error.code == 413, f"status {error.code}")
    except urllib.error.URLError as error:  # the server closes while we still send
        must(isinstance(error.reason, (BrokenPipeError, ConnectionResetError)), str(error))
    else:
        raise RuntimeError("it was accepted")


def stops(identifier: str) -> str:
    """`podman stop` must let a running stream finish and end with exit status 0, without being killed."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    stream = client.completions.create(
        model="demo", prompt="Once", max_tokens=900, n=4, seed=1, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(sh, "podman", "stop", "--time", "40", identifier)
        finished = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        stopped.result()
    seconds = time.monotonic() - start
    must(finished == ["length"] * 4, f"the stream's choices ended with {finished}")
    code = sh("podman", "inspect", "--format", "{{.State.ExitCode}}", identifier)
    must(code == "0", f"exit status {code}")
    return f"after {seconds:.1f} s, a running stream finished"


def any_uid() -> str:
    """An arbitrary uid without a home must serve too."""
    with container(*HARDENED, "--user", "54321:0", "--env", "TRITSERVE_ALLOW_NO_KEY=yes") as it:
        return f"ready after {wait_ready(it):.1f} s as 54321"


def refuses_without_key() -> None:
    """Without a key and without the decision the container must not serve, and must say how."""
    with container() as it:
        must(sh("podman", "wait", it, timeout=60) == "2", "it did not exit with 2")
        must("TRITSERVE_ALLOW_NO_KEY=yes" in logs(it), logs(it)[-500:])


def labels() -> str:
    """The OCI annotations must be there."""
    found = json.loads(sh("podman", "inspect", "--format", "{{json .Config.Labels}}", TAG))
    for name in ("title", "description", "licenses", "version", "revision", "created"):
        must(f"org.opencontainers.image.{name}" in found, f"label {name} is missing")
    size = int(sh("podman", "inspect", "--format", "{{.Size}}", TAG))
    return f"{size / 1e6:.0f} MB"


def main() -> None:
    """Build, check, summarise."""
    parser = argparse.ArgumentParser(description="Build the image and check it from outside.")
    parser.add_argument("--base", default="python:3.13-slim", help="base image, present locally")
    parser.add_argument("--ca-bundle", help="certificates to mount while building")
    parser.add_argument("--no-build", action="store_true", help="check the image of the last build")
    options = parser.parse_args()
    report = Report()
    if not options.no_build:
        report.check("builds", lambda: build(options.base, options.ca_bundle))
    report.check("carries the OCI labels", labels)
    report.check("refuses to listen without a key", refuses_without_key)
    hardened_checks(report)
    report.check("runs as any uid", any_uid)
    failed = [name for name, result in report.results.items() if result.startswith("FAILED")]
    print(json.dumps({"checks": len(report.results), "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

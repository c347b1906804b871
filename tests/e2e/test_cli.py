"""The command line end to end: a real process, the embedded model, the official SDK."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import running_hub
from openai import OpenAI

from tritserve.model.random_checkpoint import write_random_checkpoint
from tritserve.model.shapes import SHAPES

COMMAND = [sys.executable, "-m", "tritserve"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITSERVE_")}
    return {**kept, "TRITSERVE_CACHE_DIR": str(cache), "NO_COLOR": "1", "COLUMNS": "200", **variables}


def run(cache: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        env=environment(cache, **variables),
    )


class Server:
    """A running `tritserve serve` on a free port; ``banner`` is what it printed until it was ready."""

    def __init__(
        self,
        cache: Path,
        *arguments: str,
        interpreter: tuple[str, ...] = (),
        command: tuple[str, ...] = ("serve",),
        **variables: str,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *interpreter, "-m", "tritserve", *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment(cache, TRITSERVE_PORT="0", **variables),
        )
        self.banner = ""
        if self.process.stdout is None:
            raise RuntimeError("no pipe")
        for line in self.process.stdout:
            self.banner += line
            if line.lstrip().startswith("curl "):
                break
        found = re.search(r"http://127\.0\.0\.1:\d+", self.banner)
        if found is None:
            self.process.kill()
            raise RuntimeError(f"no URL in {self.banner!r}; stderr: {self.process.communicate()[1]}")
        self.url = found[0]

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[Server]:
    running = Server(cache)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


def test_demo_streams_an_answer_through_the_official_sdk(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=12, seed=1, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.strip()


def test_banner_names_url_model_kernels_threads_and_why(server: Server) -> None:
    for word in ("model", "kernels", "threads"):
        assert re.search(rf"^\s*{word}\s+\S", server.banner, re.MULTILINE), server.banner
    assert re.search(r"threads\s+\d+ \(.+\)", server.banner), server.banner


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_line_of_the_banner_works_as_pasted(server: Server) -> None:
    line = server.banner[server.banner.index("curl ") :].strip()
    answer = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(answer)["choices"][0]["message"]["content"]


def test_bench_loads_a_running_server_and_says_what_its_clients_saw(cache: Path, server: Server) -> None:
    load = ("--url", server.url, "--batch", "1,4", "--prefill", "8", "--decode", "5", "--requests", "4")
    found = run(cache, "bench", *load, "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    for row, clients in zip(report["rows"], (1, 4), strict=True):
        assert (row["concurrency"], row["requests"], row["failed"]) == (clients, 4, 0)
        assert row["output_tokens"] == 20
        assert 0 < row["ttft_seconds"]["p50"] <= row["ttft_seconds"]["p99"] <= row["seconds"]
        assert row["tpot_seconds"]["p50"] > 0
    shown = run(cache, "bench", *load).stdout
    assert "TTFT ms" in shown, shown


def test_one_listening_port_and_no_outbound_connection(server: Server) -> None:
    pids = [str(server.process.pid), *_children(server.process.pid)]
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            if found:
                inodes.add(found[1])
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[9] in inodes]
    port = f"{int(server.url.rsplit(':', 1)[1]):04X}"
    assert [row[1].split(":")[1] for row in ours if row[3] == "0A"] == [port]
    assert [row for row in ours if row[1].split(":")[1] != port] == []


def test_chat_command_streams_from_the_running_server(server: Server, cache: Path) -> None:
    done = run(cache, "chat", "Tell me a story.", "--url", server.url, "--max-tokens", "8", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_tritserve_alone_serves_the_demo_and_sigterm_ends_it_with_0(cache: Path) -> None:
    running = Server(cache, command=())
    assert re.search(r"model\s+demo$", running.banner, re.MULTILINE), running.banner
    assert running.stop() == 0


def test_sigterm_lets_a_running_stream_finish(cache: Path) -> None:
    running = Server(cache)
    with OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model="demo", prompt="Once", max_tokens=400, seed=1, stream=True, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        first = next(chunks)
        running.process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in (first, *chunks)]
    assert reasons[-1] == "length"
    running.process.communicate(timeout=60)
    assert running.process.returncode == 0


def test_serve_pulls_an_absent_hub_model_and_serves_it_by_its_name(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "repository", SHAPES["tiny"])
    with running_hub(tmp_path / "repository", "acme/tiny") as hub:
        variables = {"HF_ENDPOINT": hub.url, "HOME": str(tmp_path), "NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1"}
        running = Server(tmp_path / "cache", "acme/tiny", **variables)
    with OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.completions.create(model="tiny", prompt="Once", max_tokens=2).usage
    assert running.stop() == 0


def test_serves_without_asserts_and_docstrings(cache: Path) -> None:
    running = Server(cache, interpreter=("-OO",))
    with OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        assert client.completions.create(model="demo", prompt="Once", max_tokens=2).usage
    assert running.stop() == 0


def test_serves_without_a_home(tmp_path: Path) -> None:
    variables = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    assert Server(tmp_path / "cache", **variables).stop() == 0


def test_taken_port_is_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "serve", "/no/such/model", "--port", str(port))
    assert done.returncode == 2
    assert f"{port}" in done.stderr
    assert "--port" in done.stderr


def test_listening_beyond_loopback_without_a_key_is_refused_with_both_commands(cache: Path) -> None:
    done = run(cache, "serve", "demo", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "tritserve serve demo --host 0.0.0.0 --port 8000 --api-key-file" in done.stderr
    assert "TRITSERVE_ALLOW_NO_KEY=yes tritserve serve demo --host 0.0.0.0" in done.stderr


def test_wrong_settings_are_one_clear_line_and_status_2(cache: Path) -> None:
    done = run(cache, "serve", TRITSERVE_MAX_NN="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tritserve: TRITSERVE_MAX_NN is not a setting. Did you mean TRITSERVE_MAX_N?\n"


def test_missing_model_is_one_clear_line_and_status_1(cache: Path) -> None:
    done = run(cache, "serve", "/no/such/model", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 2
    assert "/no/such/model" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_refuses_to_pull_an_absent_hub_model(cache: Path) -> None:
    done = run(cache, "serve", "nobody/absent-model", "--offline", "--port", "0")
    assert done.returncode == 1
    assert "nobody/absent-model" in done.stderr
    assert "Traceback" not in done.stderr


def test_printed_configuration_is_redacted(cache: Path) -> None:
    done = run(cache, "serve", "--print-config", TRITSERVE_API_KEY="hunter2", TRITSERVE_PORT="tcp://10.0.0.1:8000")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    assert "port = 8000" in done.stdout


def test_inspect_describes_the_demo(cache: Path) -> None:
    description = json.loads(run(cache, "inspect", "demo", "--json").stdout)
    assert description["architecture"]["n_layers"] >= 1
    assert description["body_bytes_per_token"] > 0


def test_doctor_reports_machine_choices_and_a_passed_self_test(cache: Path, tmp_path: Path) -> None:
    done = run(cache, "doctor", "--bundle", str(tmp_path / "bundle.json"), TRITSERVE_API_KEY="hunter2")
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    assert {"cpu", "isa", "threads", "memory", "model"} <= set(bundle)
    assert "hunter2" not in (tmp_path / "bundle.json").read_text()


def _children(pid: int) -> list[str]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            children += [child, *_children(int(child))]
    return children

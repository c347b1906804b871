"""`tritserve pull` against a hub on loopback: what is fetched, what is refused before it, and what is said without a network."""

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from fake_hub import running_hub

from tritserve.cli import pull as pull_module
from tritserve.errors import ModelFileError
from tritserve.model.hub import SMALL_FILES, find_local
from tritserve.model.random_checkpoint import write_random_checkpoint
from tritserve.model.shapes import SHAPES

CHUNK_BYTES = 10 * 1024 * 1024
"""What the library writes at a time; a download goes on behind the last whole chunk."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "repository"
    write_random_checkpoint(folder, SHAPES["small"])
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


def run_pull(home: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRITSERVE_", "HF_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-m", "tritserve", "pull", *arguments],
        env={**kept, "HF_ENDPOINT": endpoint, "HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
    )


def test_pull_resumes_a_cut_download_fetches_no_code_and_converts(checkpoint: Path, tmp_path: Path) -> None:
    size = (checkpoint / "model.safetensors").stat().st_size
    assert size > CHUNK_BYTES
    with running_hub(checkpoint, "acme/tiny", cut_after=(size + CHUNK_BYTES) // 2) as hub:
        done = run_pull(tmp_path, hub.url, "acme/tiny")
    assert done.returncode == 0, done.stderr
    assert "ready: tritserve serve acme/tiny" in done.stdout
    assert set(hub.fetched) <= {*SMALL_FILES, "model.safetensors"}
    assert hub.ranges == [f"model.safetensors from {CHUNK_BYTES}"]
    cache = tmp_path / ".cache" / "tritserve"
    assert len(list(cache.glob("*.trit"))) == 1
    found = find_local("acme/tiny", [cache / "hub"])
    assert found is not None
    assert (found / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_model_that_cannot_be_served_is_refused_before_its_weights_travel(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = folder / "config.json"
    config.write_text(config.read_text().replace("BitNetForCausalLM", "MambaForCausalLM"))
    with running_hub(folder, "acme/other") as hub:
        done = run_pull(tmp_path, hub.url, "acme/other")
    assert (done.returncode, done.stdout) == (1, "")
    assert "MambaForCausalLM" in done.stderr
    assert "model.safetensors" not in hub.fetched


def test_without_a_network_the_message_says_what_to_check(tmp_path: Path) -> None:
    done = run_pull(tmp_path, "http://127.0.0.1:9", "acme/tiny")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tritserve: cannot download acme/tiny: ")
    assert "Check the network, HTTPS_PROXY and HF_ENDPOINT" in done.stderr
    assert done.stderr.count("\n") == 1


def test_disk_without_room_is_found_before_the_download(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ModelFileError, match=r"5,000 bytes are to be downloaded .* but only 1,000 are free"):
        pull_module._require_room(checkpoint, 5_000)
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda _: usage(10**12, 0, 10**12))
    pull_module._require_room(checkpoint, 5_000)

"""`tritserve serve` up to the point where it runs: names, text, what is found wrong before anything slow."""

import gc
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritserve.cli import serve as serve_module
from tritserve.cli.serve import assemble, find_or_pull, names_of, served_model
from tritserve.errors import ModelFileError, SettingsError
from tritserve.model.cache import load_or_convert
from tritserve.model.hub import DEMO_CHECKPOINT
from tritserve.model.packed_file import open_packed
from tritserve.settings import Settings


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    gc.enable()
    signal.signal(signal.SIGTERM, handler)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("/models/tiny", "tiny"),
        ("/models/tiny/", "tiny"),
        ("/models/tiny.trit", "tiny"),
        ("microsoft/bitnet-b1.58-2B-4T", "bitnet-b1.58-2B-4T"),
        ("acme/tiny@v1.0", "tiny"),
        (".trit", ".trit"),
    ],
)
def test_served_name_is_the_last_part_of_the_models(model: str, name: str) -> None:
    assert names_of(Settings(model=model)) == (name,)
    assert names_of(Settings(model=model, served_model_name=("a", "b"))) == ("a", "b")


def test_front_is_assembled_from_the_demo(tmp_path: Path) -> None:
    pool, make_front = assemble(Settings(cache_dir=tmp_path, max_model_len=512))
    front = make_front()
    assert make_front() is front
    assert front.pool is pool
    assert front.model.names == ("demo",)
    assert front.keys is None
    assert front.model.text.has_chat_template
    with open_packed(load_or_convert(DEMO_CHECKPOINT, tmp_path)) as packed:
        header = packed.header
    assert front.model.eos_token_ids == frozenset(header.special_tokens.eos)
    assert (front.model.vocab_size, front.model.weights_sha256) == (header.architecture.vocab, header.weights_sha256)


def test_prompts_begin_with_bos_where_the_tokenizer_wants_it(tmp_path: Path) -> None:
    with open_packed(load_or_convert(DEMO_CHECKPOINT, tmp_path)) as packed:
        model = served_model(packed, ("demo",))
        assert model.text.encode_prompt("Once")[0] == packed.header.special_tokens.bos


def test_port_is_taken_before_the_model_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Listener:
        def __enter__(self) -> "Listener":
            return self

        def __exit__(self, *_: object) -> None:
            calls.append("closed")

    monkeypatch.setattr(serve_module, "open_listener", lambda host, port: calls.append("listener") or Listener())
    monkeypatch.setattr(serve_module, "find_or_pull", lambda *_: calls.append("model") or Path("/no/such/model"))
    with pytest.raises(ModelFileError):
        serve_module.serve("/no/such/model", cache_dir=str(tmp_path))
    assert calls == ["listener", "model", "closed"]


def test_wrong_key_file_is_found_before_the_model_is_converted(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the API key file"):
        assemble(Settings(cache_dir=tmp_path, api_key_file=tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


def test_absent_hub_model_is_pulled_by_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho "$@" > {asked}\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelFileError, match="acme/tiny could not be pulled; the lines above say why"):
        find_or_pull(Settings(model="acme/tiny"), tmp_path / "cache")
    assert asked.read_text().split() == ["-m", "tritserve", "pull", "acme/tiny", "--cache-dir", str(tmp_path / "cache")]


def test_offline_pulls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelFileError, match="offline mode is on: run `tritserve pull acme/tiny`"):
        find_or_pull(Settings(model="acme/tiny", offline=True), tmp_path)


def test_start_is_logged_with_what_was_set_but_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITSERVE_API_KEY", "hunter2")
    monkeypatch.setenv("TRITSERVE_SERVICE_HOST", "10.0.0.7")
    with pytest.raises(ModelFileError):
        serve_module.serve(
            "/no/such/model", cache_dir=str(tmp_path), port="0", allowed_hosts=["a,b"], log_format="json"
        )
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"].split(":")[0] for line in lines] == [
        "starting",
        "variables of a Kubernetes service are not settings and were ignored",
    ]
    assert "TRITSERVE_SERVICE_HOST" in lines[1]["event"]
    assert {"model": "/no/such/model", "api_key": "(set)", "port": 0, "allowed_hosts": "a, b"}.items() <= lines[
        0
    ].items()
    assert "hunter2" not in str(lines)
    assert "queue_limit" not in lines[0]

"""From a name to files: the demo, paths, and the hub cache's layout, without the hub's library."""

import json
import sys
from pathlib import Path

import pytest

from tritserve.errors import ModelFileError
from tritserve.model.hub import DEMO_CHECKPOINT, find_local, is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A hub cache with one whole snapshot of acme/tiny."""
    repository = tmp_path / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    return tmp_path / "hub"


def snapshot_of(hub: Path) -> Path:
    return hub / "models--acme--tiny" / "snapshots" / COMMIT


def test_demo_path_and_hub_id_are_found(hub: Path, tmp_path: Path) -> None:
    assert find_local("demo", []) == DEMO_CHECKPOINT
    assert find_local(str(tmp_path), []) == tmp_path
    assert find_local("acme/tiny", [tmp_path / "absent", hub]) == snapshot_of(hub)
    assert find_local(f"acme/tiny@{COMMIT}", [hub]) == snapshot_of(hub)
    assert find_local("acme/tiny@main", [hub]) == snapshot_of(hub)
    assert find_local("acme/tiny@other", [hub]) is None
    assert find_local("acme/absent", [hub]) is None


def test_snapshot_is_whole_when_every_shard_of_the_index_is_there(hub: Path) -> None:
    snapshot = snapshot_of(hub)
    (snapshot / "model.safetensors").unlink()
    assert find_local("acme/tiny", [hub]) is None
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    (snapshot / shards[0]).write_text("")
    assert find_local("acme/tiny", [hub]) is None
    (snapshot / shards[1]).write_text("")
    assert find_local("acme/tiny", [hub]) == snapshot
    (snapshot / shards[1]).unlink()
    (snapshot / shards[1]).symlink_to("../../blobs/absent")  # an interrupted download's link
    assert find_local("acme/tiny", [hub]) is None


@pytest.mark.parametrize("content", ["../../../elsewhere", "..", "", "a/b", "\x00", "é"])
def test_hostile_reference_leads_nowhere(hub: Path, content: str) -> None:
    (hub / "models--acme--tiny" / "refs" / "main").write_text(content)
    assert find_local("acme/tiny", [hub]) is None


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "../up", "acme/", "x" * 300, "acme/tiny@", "acme/ti ny"])
def test_name_that_is_neither_here_nor_a_hub_id_is_refused(name: str, hub: Path) -> None:
    with pytest.raises(ModelFileError, match="neither an existing folder or file nor a hub id"):
        find_local(name, [hub])


def test_hub_ids_are_told_from_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    assert is_hub_id("acme/tiny")
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("acme/tiny")
    assert not is_hub_id("demo")


def test_looking_does_not_import_the_hubs_library(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_local("acme/tiny", [hub]) is not None

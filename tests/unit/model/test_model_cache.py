"""The cache of packed models: found again by what the files are, converted again when any of them changes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tritserve.errors import SettingsError
from tritserve.model.cache import load_or_convert
from tritserve.model.header import TERNARY_KINDS, Layout, Packing
from tritserve.model.packed_file import open_packed
from tritserve.model.random_checkpoint import write_random_checkpoint
from tritserve.model.shapes import SHAPES
from tritserve.model.weights import ROOM_BYTES, choose_packing, fast_file_bytes

LONG_AGO = 1_700_000_000


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    write_random_checkpoint(folder, SHAPES["tiny"])
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def test_unchanged_checkpoint_is_found_again_without_reading_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_or_convert(checkpoint, tmp_path / "cache")
    for name in ("tritserve.model.checkpoints.hf", "tritserve.model.pack"):
        monkeypatch.setitem(sys.modules, name, None)  # importing them is an error
    assert load_or_convert(checkpoint, tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("packing", "layouts"),
    [("dense", {Layout.T5_P64G4}), ("skip", {Layout.T2_P64G4, Layout.T2_ROWS, Layout.T2_COLS})],
)
def test_other_packings_are_files_of_their_own_with_the_same_answers(
    checkpoint: Path, tmp_path: Path, packing: Packing, layouts: set[Layout]
) -> None:
    fast = load_or_convert(checkpoint, tmp_path / "cache")
    other = load_or_convert(checkpoint, tmp_path / "cache", packing=packing)
    assert other != fast
    assert load_or_convert(checkpoint, tmp_path / "cache") == fast
    with open_packed(fast) as first, open_packed(other) as second:
        assert {t.layout for t in first.header.tensors if t.kind in TERNARY_KINDS} == {Layout.T2_P64G4}
        assert {t.layout for t in second.header.tensors if t.kind in TERNARY_KINDS} == layouts
        assert first.header.known_answer is not None
        assert second.header.known_answer == first.header.known_answer


def test_auto_is_dense_only_where_the_fast_packing_does_not_fit(checkpoint: Path) -> None:
    fast_needs = fast_file_bytes(checkpoint) + ROOM_BYTES
    assert choose_packing("auto", checkpoint, fast_needs) == "fast"
    assert choose_packing("auto", checkpoint, fast_needs - 1) == "dense"
    assert choose_packing("dense", checkpoint, fast_needs) == "dense"
    assert choose_packing("fast", checkpoint, 0) == "fast"
    assert choose_packing("auto", checkpoint / "model.trit", 0) == "fast"
    assert choose_packing("skip", checkpoint, 0) == "skip"


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_changed_or_added_small_file_gives_another_model(name: str, checkpoint: Path, tmp_path: Path) -> None:
    first = load_or_convert(checkpoint, tmp_path / "cache")
    path = checkpoint / name
    content = json.loads(path.read_text()) if path.exists() else None
    path.write_text("{{ 'hello' }}" if content is None else json.dumps(content, indent=7))
    second = load_or_convert(checkpoint, tmp_path / "cache")
    assert second != first
    assert {first, second} <= set((tmp_path / "cache").glob("*.trit"))


def test_weights_of_the_same_size_and_time_in_another_file_are_noticed(checkpoint: Path, tmp_path: Path) -> None:
    first = load_or_convert(checkpoint, tmp_path / "cache")
    other = tmp_path / "other"
    write_random_checkpoint(other, SHAPES["tiny"], seed=1)
    os.replace(other / "model.safetensors", checkpoint / "model.safetensors")
    os.utime(checkpoint / "model.safetensors", (LONG_AGO, LONG_AGO))
    second = load_or_convert(checkpoint, tmp_path / "cache")
    with open_packed(first) as a, open_packed(second) as b:
        assert a.header.weights_sha256 != b.header.weights_sha256


def test_index_that_points_to_other_shards_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "other", SHAPES["tiny"], seed=1)
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    os.replace(checkpoint / "model.safetensors", checkpoint / shards[0])
    os.replace(tmp_path / "other" / "model.safetensors", checkpoint / shards[1])
    names = _tensor_names(checkpoint / shards[0])
    made = []
    for shard in shards:
        index = checkpoint / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
        for path in checkpoint.iterdir():
            os.utime(path, (LONG_AGO, LONG_AGO))
        os.utime(index, (LONG_AGO + len(made), LONG_AGO + len(made)))
        made.append(load_or_convert(checkpoint, tmp_path / "cache"))
    with open_packed(made[0]) as a, open_packed(made[1]) as b:
        assert a.header.weights_sha256 != b.header.weights_sha256


def test_equal_checkpoints_in_two_folders_share_one_packed_model(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    assert load_or_convert(copy, tmp_path / "cache") == load_or_convert(checkpoint, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.trit"))) == 1


def test_damaged_packed_model_is_made_again(checkpoint: Path, tmp_path: Path) -> None:
    path = load_or_convert(checkpoint, tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert load_or_convert(checkpoint, tmp_path / "cache") == path
    assert path.read_bytes() == whole


def test_cache_that_cannot_be_written_is_named_with_the_fix(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        SettingsError, match=rf"{tmp_path}/cache as uid {os.getuid()}.*--cache-dir or TRITSERVE_CACHE_DIR"
    ):
        load_or_convert(checkpoint, tmp_path / "cache")


def _tensor_names(path: Path) -> list[str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [name for name in header if name != "__metadata__"]

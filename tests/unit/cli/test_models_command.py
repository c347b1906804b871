"""`tritserve models`: what is listed, removed and collected."""

import os
from pathlib import Path

import pytest

from tritserve.cli.models import STALE_SECONDS, collect, list_models, remove
from tritserve.errors import ServerError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "broken.trit").write_bytes(b"not a model")
    (tmp_path / "half.trit.tmp-1").write_bytes(b"old")
    (tmp_path / "half.trit.tmp-2").write_bytes(b"being written")
    (tmp_path / "notes.txt").write_bytes(b"somebody's")
    long_ago = (tmp_path / "notes.txt").stat().st_mtime - STALE_SECONDS - 60
    for name in ("half.trit.tmp-1", "notes.txt"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    return tmp_path


def test_damaged_model_is_listed_as_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_models(cache_dir=folder)
    assert "damaged" in capsys.readouterr().out


def test_collecting_keeps_foreign_files_and_running_conversions(folder: Path) -> None:
    collect(cache_dir=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["half.trit.tmp-2", "notes.txt"]


def test_removing_takes_only_names_in_the_folder(folder: Path) -> None:
    with pytest.raises(ServerError, match="is not in"):
        remove(["broken.trit", "../notes.txt"], cache_dir=folder)
    assert (folder / "broken.trit").exists()
    remove(["broken.trit"], cache_dir=folder)
    assert not (folder / "broken.trit").exists()

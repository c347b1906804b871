"""The conversion cache: one conversion per content, whole or not at all, whoever else is at it and wherever it was cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tritserve.errors import ModelFileError, SettingsError
from tritserve.model import pack
from tritserve.model.cache import load_or_convert
from tritserve.model.checkpoints.hf import HfCheckpoint
from tritserve.model.packed_file import open_packed, verify_payload

CONVERT = """
import os, signal, sys
from pathlib import Path
from tritserve.model.cache import load_or_convert

calls = 0
def progress(what, done, total):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

print(load_or_convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress), calls)
"""


def start(checkpoint: Path, folder: Path, kill_at: int = 0) -> subprocess.Popen[str]:
    """Convert in another process, which kills itself at its ``kill_at``-th report of progress."""
    arguments = [sys.executable, "-c", CONVERT, str(checkpoint), str(folder), str(kill_at)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def models_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.trit"))


def date(checkpoint: Path, seconds_ago: float) -> None:
    """Date the files: two seconds must have passed for their stamps to be believed."""
    then = time.time() - seconds_ago
    for path in checkpoint.iterdir():
        os.utime(path, (then, then))


@pytest.mark.parametrize("kill_at", [1, 17, -1])
def test_a_conversion_that_was_killed_leaves_no_model_and_is_done_again(
    tiny_checkpoint: Path, tiny_origin: tuple[Path, Path], tmp_path: Path, kill_at: int
) -> None:
    folder = tmp_path / "cache"
    whole = start(tiny_checkpoint, tmp_path / "other")
    num_reports = int(whole.communicate()[0].split()[1])
    killed = start(tiny_checkpoint, folder, kill_at if kill_at > 0 else num_reports)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert models_in(folder) == []
    assert len(list(folder.glob("*.partial"))) == 1
    target = load_or_convert(tiny_checkpoint, folder)
    assert target.read_bytes() == tiny_origin[1].read_bytes()
    assert list(folder.glob("*.partial")) == []


@pytest.mark.parametrize("kill_at", [1, 2, 17])
def test_what_a_killed_conversion_leaves_is_refused_under_any_name(
    tiny_checkpoint: Path, tmp_path: Path, kill_at: int
) -> None:
    folder = tmp_path / "cache"
    start(tiny_checkpoint, folder, kill_at).communicate()
    [partial] = folder.glob("*.partial")
    named = partial.rename(tmp_path / "model.trit")
    with pytest.raises(ModelFileError):
        open_packed(named)


def test_processes_that_convert_at_once_give_one_whole_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    processes = [start(tiny_checkpoint, folder) for _ in range(4)]
    lines = [process.communicate()[0].split() for process in processes]
    assert {process.returncode for process in processes} == {0}
    assert len({path for path, _ in lines}) == 1
    assert sum(calls != "0" for _, calls in lines) == 1  # the others waited for it
    [target] = models_in(folder)
    with open_packed(target) as model:
        verify_payload(model)


def test_a_model_in_the_cache_that_is_not_whole_is_converted_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = load_or_convert(tiny_checkpoint, tmp_path)
    content = target.read_bytes()
    for damaged in (b"", content[:1000], content[:-1], b"\0" + content[1:]):
        target.write_bytes(damaged)
        assert load_or_convert(tiny_checkpoint, tmp_path) == target
        assert target.read_bytes() == content


def test_the_same_content_elsewhere_is_the_same_model_and_another_content_is_not(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    first = load_or_convert(tiny_checkpoint, tmp_path / "cache")
    assert load_or_convert(copy, tmp_path / "cache") == first
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 2e-5}))
    assert load_or_convert(copy, tmp_path / "cache") != first
    assert len(models_in(tmp_path / "cache")) == 2


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the folders whose content is hashed."""
    seen: list[str] = []
    files = HfCheckpoint.files
    monkeypatch.setattr(HfCheckpoint, "files", lambda self: (seen.append(self.folder.name), files(self))[1])
    return seen


def test_a_checkpoint_that_has_not_changed_is_not_read_again(
    tiny_checkpoint: Path, tmp_path: Path, hashed: list[str]
) -> None:
    date(tiny_checkpoint, 3600)
    first = load_or_convert(tiny_checkpoint, tmp_path / "cache")
    assert load_or_convert(tiny_checkpoint, tmp_path / "cache") == first
    assert len(hashed) == 1


def test_a_checkpoint_that_has_just_changed_is_read_again(
    tiny_checkpoint: Path, tmp_path: Path, hashed: list[str]
) -> None:
    date(tiny_checkpoint, 0)
    load_or_convert(tiny_checkpoint, tmp_path / "cache")
    load_or_convert(tiny_checkpoint, tmp_path / "cache")
    assert len(hashed) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"hashed_at_ns": 9e99}', b"\xff", b"[" * 100_000])
def test_an_index_that_is_damaged_is_only_a_lost_shortcut(
    tiny_checkpoint: Path, tmp_path: Path, hashed: list[str], content: bytes
) -> None:
    date(tiny_checkpoint, 3600)
    first = load_or_convert(tiny_checkpoint, tmp_path / "cache")
    [index] = (tmp_path / "cache" / "index").iterdir()
    index.write_bytes(content)
    assert load_or_convert(tiny_checkpoint, tmp_path / "cache") == first
    assert len(hashed) == 2


def test_a_checkpoint_that_changes_while_it_is_converted_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def change(what: str, done: int, total: int) -> None:
        (tiny_checkpoint / "generation_config.json").write_text("{}")

    with pytest.raises(ModelFileError, match="changed while it was converted"):
        load_or_convert(tiny_checkpoint, tmp_path / "cache", progress=change)
    assert models_in(tmp_path / "cache") == []


def test_a_disk_without_room_is_named_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.os, "statvfs", lambda folder: os.statvfs_result((4096, 4096, 9, 5, 5, 0, 0, 0, 0, 255)))
    with pytest.raises(
        ModelFileError, match=r"20,480 bytes are free, but the packed model needs [\d,]+: free some space"
    ):
        load_or_convert(tiny_checkpoint, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.partial")) == []


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tritserve.errors import ModelFileError; from tritserve.model.cache import load_or_convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try: load_or_convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except ModelFileError as error: print(error)\n"
    )
    folder = tmp_path / "cache"
    run = subprocess.run(
        [sys.executable, "-c", code, tiny_checkpoint, folder], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in run.stdout
    assert [path.name for path in folder.iterdir() if not path.name.endswith((".lock", "index"))] == []


def test_a_cache_that_cannot_be_written_says_who_must_do_what(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--cache-dir or TRITSERVE_CACHE_DIR"):
        load_or_convert(tiny_checkpoint, tmp_path / "file" / "cache")


def test_a_lock_that_is_no_file_is_refused_and_not_waited_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    target = load_or_convert(tiny_checkpoint, folder)
    target.unlink()
    lock = target.with_name(target.name + ".lock")
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(SettingsError, match="not a regular file"):
        load_or_convert(tiny_checkpoint, folder)
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="cannot write"):
        load_or_convert(tiny_checkpoint, folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_packed_file_is_served_as_it_is_and_other_things_are_refused(tiny_packed: Path, tmp_path: Path) -> None:
    assert load_or_convert(tiny_packed, tmp_path / "cache") == tiny_packed
    assert not (tmp_path / "cache").exists()
    for name, match in (("model.gguf", "GGUF files are not read"), ("absent", "no folder")):
        with pytest.raises(ModelFileError, match=match):
            load_or_convert(tmp_path / name, tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="no model"):
        load_or_convert(tmp_path / "empty", tmp_path / "cache")

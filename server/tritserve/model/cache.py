"""The cache of packed models: a checkpoint is converted once, however often and by however many processes it is asked for.

A packed model is named by its content: ``<key>.trit``, key = SHA-256 over the source files' SHA-256 and the converter's version. Hashing
1.2 GB takes about a second, so ``index/`` remembers per folder the files' sizes, times and inodes with their hashes. What is remembered
and there is found without numpy and the native library: they are imported when there is something to convert.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from typing import TYPE_CHECKING

import msgspec

from tritserve.errors import ModelFileError, SettingsError
from tritserve.model.checkpoints.hf_config import SMALL_NAMES
from tritserve.model.header import CONVERTER_VERSION, Packing, SourceFile
from tritserve.model.packed_file import FORMAT_VERSION, open_packed
from tritserve.model.source import FileStamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tritserve.model.pack import Progress
    from tritserve.model.source import Source

_INDEX_SUFFIX = ".safetensors.index.json"
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within the clock's tick: its stamp proves nothing."""


class _IndexEntry(msgspec.Struct, frozen=True):
    hashed_at_ns: int
    stamps: list[FileStamp]
    files: list[SourceFile]


def load_or_convert(
    path: Path, cache_dir: Path, *, packing: Packing = "fast", progress: Progress | None = None
) -> Path:
    """Return the packed file of a model: ``path`` itself if it is one, else the conversion of the checkpoint folder ``path``.

    Each ``packing`` of the ternary weights is a file of its own.

    Raises ModelFileError for a damaged or unsupported checkpoint and a full disk, SettingsError for a folder that this user cannot write.
    """
    if path.suffix == ".trit":
        target = path.resolve()
        open_packed(target).close()
        return target
    if not path.is_dir():
        what = "GGUF files are not read yet; use the safetensors checkpoint" if path.suffix == ".gguf" else "no folder"
        raise ModelFileError(f"{path}: {what}, expected a checkpoint folder or a .trit file")
    index = cache_dir / "index" / (hashlib.sha256(os.fsencode(path.resolve())).hexdigest() + ".json")
    stamps = _stamps(path)
    files = _remembered(index, stamps)
    if files is not None and is_whole(target := cache_dir / (_key(files, packing) + ".trit")):
        return target
    return _convert(path, cache_dir, index, stamps, files, packing, progress)


def _convert(
    path: Path,
    cache_dir: Path,
    index: Path,
    stamps: list[FileStamp],
    files: list[SourceFile] | None,
    packing: Packing,
    progress: Progress | None,
) -> Path:
    from tritserve.model.checkpoints.hf import open_hf
    from tritserve.model.pack import pack

    with open_hf(path) as source:
        opened = source.stamps()
        if files is None or not set(opened) <= set(stamps):  # a file may have been replaced since its stamp was taken
            files = _hashed(source, index, stamps)
        target = cache_dir / (_key(files, packing) + ".trit")
        if not is_whole(target):
            with lock(target):
                if not is_whole(target):  # another process may have been faster
                    pack(source, target, files=files, progress=progress, packing=packing)
                    if source.stamps() != opened:
                        target.unlink(missing_ok=True)
                        raise ModelFileError(f"{path}: the checkpoint changed while it was converted; try again")
    return target


def _stamps(folder: Path) -> list[FileStamp]:
    """Return the stamps of every file in the folder that may decide the packed bytes: more than those that do, so no change is missed."""
    try:
        names = sorted(
            name for name in os.listdir(folder) if name in SMALL_NAMES or name.endswith((".safetensors", _INDEX_SUFFIX))
        )
        found = [(name, os.stat(folder / name)) for name in names]
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return [FileStamp(name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in found]


def _key(files: list[SourceFile], packing: Packing) -> str:
    rows = sorted((file.name, file.bytes, file.sha256) for file in files)
    named = [CONVERTER_VERSION, FORMAT_VERSION, rows, packing]
    return hashlib.sha256(msgspec.json.encode(named)).hexdigest()[:32]


def is_whole(target: Path) -> bool:
    """Tell whether a packed model is there, complete."""
    try:
        open_packed(target).close()
    except ModelFileError:
        return False
    return True


def _remembered(index: Path, stamps: list[FileStamp]) -> list[SourceFile] | None:
    try:
        entry = msgspec.json.decode(index.read_bytes(), type=_IndexEntry)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    newest = max((stamp.mtime_ns for stamp in stamps), default=0)
    return entry.files if entry.stamps == stamps and newest + _SETTLED_NS < entry.hashed_at_ns else None


def _hashed(source: Source, index: Path, stamps: list[FileStamp]) -> list[SourceFile]:
    now = time.time_ns()
    files = source.files()
    with contextlib.suppress(OSError):  # only a shortcut: a read-only cache still serves
        index.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=index.parent, delete=False) as part:
            part.write(msgspec.json.encode(_IndexEntry(now, stamps, files)))
        os.replace(part.name, index)
    return files


@contextlib.contextmanager
def lock(target: Path) -> Iterator[None]:
    """Hold the target's lock file, waiting for another process's conversion. Raises SettingsError if it cannot be made."""
    path = target.with_name(target.name + ".lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise SettingsError(
            f"cannot write to the cache folder {target.parent} as uid {os.getuid()}: {error.strerror or error}. "
            f"Give it to this user (chown {os.getuid()} {target.parent}) or name another with --cache-dir or TRITSERVE_CACHE_DIR."
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SettingsError(f"{path} is not a regular file: remove it")
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

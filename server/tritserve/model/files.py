"""Open and read model files without trusting them: no links out, no pipes or devices, no size taken on faith."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tritserve.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def open_regular_path(path: Path) -> tuple[int, int]:
    """Open a regular file that is no symbolic link: (descriptor, bytes). Raises ModelFileError.

    Looked at before the open (opening a device can have effects) and again after it (the name may have changed hands).
    """
    try:
        _require_regular(path, os.lstat(path))
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot open: {error.strerror or error}") from error
    try:
        found = os.fstat(fd)
        _require_regular(path, found)
    except BaseException:
        os.close(fd)
        raise
    return fd, found.st_size


def open_in_folder(folder: Path, name: str) -> tuple[int, int]:
    """Open ``name``, a plain file name, inside a checkpoint folder: (descriptor, bytes). Raises ModelFileError.

    A symbolic link is followed only when its target lies in the folder itself or, in a hub cache (``snapshots/<revision>``
    beside ``blobs``), in that cache's ``blobs``: the cache keeps every file that way.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ModelFileError(f"{folder}: file name is {name!r}, expected a plain name without folders")
    path = folder / name
    if not path.is_symlink():
        return open_regular_path(path)
    try:
        home, target = folder.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the symbolic link leads nowhere") from error
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if target.parent not in allowed:
        raise ModelFileError(f"{path}: is a symbolic link to {target}, expected a target inside {home}")
    return open_regular_path(target)


def read_at(fd: int, offset: int, count: int, path: Path | str) -> bytes:
    """Return exactly ``count`` bytes at ``offset``. The caller has compared both with the file's size. Raises ModelFileError."""
    parts: list[bytes] = []
    while count > 0:
        try:
            part = os.pread(fd, count, offset)
        except OSError as error:
            raise ModelFileError(f"{path}: cannot read: {error.strerror or error}") from error
        if not part:
            raise ModelFileError(f"{path}: ends at byte {offset}, expected {count} more")
        parts.append(part)
        offset += len(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_small(folder: Path, name: str, max_bytes: int) -> bytes:
    """Return a whole file of a checkpoint folder. Raises ModelFileError if it has more than ``max_bytes``."""
    fd, size = open_in_folder(folder, name)
    try:
        if size > max_bytes:
            raise ModelFileError(f"{folder / name}: has {size} bytes, expected at most {max_bytes}")
        return read_at(fd, 0, size, folder / name)
    finally:
        os.close(fd)


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"{path}: is a {_kind(found.st_mode)}, expected a regular file")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return name
    return "special file"

"""The packed models of shapes that ``tritserve bench --shape`` measures: random weights, written once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tritserve.cli.locate import command_settings
from tritserve.errors import ModelFileError, SettingsError
from tritserve.machine import read_machine
from tritserve.model import random_zeros
from tritserve.model.cache import is_whole, lock
from tritserve.model.header import CONVERTER_VERSION, expected_tensors
from tritserve.model.packed_file import FORMAT_VERSION
from tritserve.model.packed_writer import packed_file_bytes
from tritserve.model.shapes import SHAPES, Shape, write_random_model
from tritserve.model.weights import ROOM_BYTES
from tritserve.settings import writable_cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritserve.model.header import Packing, WeightsName


def random_model(
    name: str,
    cache_dir: Path | None,
    say: Callable[[str], None],
    weights: WeightsName = "auto",
    *,
    like_demo: bool = False,
) -> Path:
    """Return the packed model of a shape with random weights, written once into the cache folder. Raises ServerError."""
    shape = SHAPES.get(name)
    if shape is None:
        raise SettingsError(f"--shape {name} is not known; there are: {', '.join(SHAPES)}")
    available = read_machine().available_bytes
    packing = (
        weights if weights != "auto" else "dense" if _file_bytes(shape, "fast") + ROOM_BYTES > available else "fast"
    )
    dense = packing == "dense"
    if shape.only_dense and not dense:
        raise SettingsError(
            f"--shape {name} comes with --weights dense only: it would be {_file_bytes(shape, packing):,} bytes"
        )
    if like_demo and (dense or not random_zeros.fits(shape.architecture)):
        raise SettingsError(f"--zeros demo cannot be drawn for --shape {name}{' with dense weights' if dense else ''}")
    folder = writable_cache_dir(command_settings(cache_dir))
    zeros = "-like-demo" if like_demo else ""
    target = folder / f"random-{name}-{packing}{zeros}-v{FORMAT_VERSION}.{CONVERTER_VERSION}.trit"
    if not is_whole(target):
        with lock(target):
            if not is_whole(target):
                _write(target, shape, packing, like_demo, say)
    if _file_bytes(shape, packing) > available:
        say(
            f"{available:,} bytes of memory are available, less than the model: steps will be read from disk, not from memory"
        )
    return target


def _write(target: Path, shape: Shape, packing: Packing, like_demo: bool, say: Callable[[str], None]) -> None:
    partial = target.with_name(f"{target.name}.partial")
    needed = _file_bytes(shape, packing)
    try:
        partial.unlink(missing_ok=True)  # of an interrupted run
        stats = os.statvfs(target.parent)
        if stats.f_bavail * stats.f_frsize < needed:
            raise ModelFileError(
                f"{target.parent}: {stats.f_bavail * stats.f_frsize:,} bytes are free, but the random model needs {needed:,}"
            )
        say(f"writing {needed:,} bytes of random weights, once: {target}")
        write_random_model(partial, shape, packing=packing, like_demo=like_demo)
        os.replace(partial, target)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _file_bytes(shape: Shape, packing: Packing) -> int:
    return packed_file_bytes(expected_tensors(shape.architecture, tied_head=shape.tied_head, packing=packing), 0)

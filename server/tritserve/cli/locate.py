"""From what a person calls a model to its packed file: where to look, what to convert, and what to say meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.cli.progress import conversion_progress
from tritserve.errors import ModelFileError
from tritserve.machine import read_machine
from tritserve.model.hub import download_folder, find_local
from tritserve.model.weights import choose_packing
from tritserve.settings import hub_cache_dir, load_settings, readable_cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from tritserve.model.header import WeightsName
    from tritserve.settings import Settings


def command_settings(cache_dir: Path | None) -> Settings:
    """Return the settings of a command that serves nothing: environment and file, and its own ``--cache-dir``. Raises SettingsError."""
    return load_settings({"cache_dir": cache_dir}).settings


def packed_file(model: str, cache_dir: Path | None, weights: WeightsName | None = None) -> Path:
    """Return the packed file of a model that is on this machine, converting a checkpoint if need be. Raises ServerError."""
    settings = command_settings(cache_dir)
    folder = readable_cache_dir(settings)
    source = find_source(model, folder)
    if source is None:
        raise ModelFileError(f"model {model} is not on this machine: run `tritserve pull {model}` first")
    return convert(source, folder, weights or settings.weights)


def find_source(model: str, cache_dir: Path) -> Path | None:
    """Return the checkpoint folder or packed file that ``model`` names; None for a hub id that is not on this machine, or not whole."""
    hub = hub_cache_dir()
    return find_local(model, [folder for folder in (download_folder(cache_dir), hub) if folder is not None])


def convert(source: Path, cache_dir: Path, weights: WeightsName) -> Path:
    """Return the packed file of a checkpoint folder, showing progress while it is made. Raises ServerError."""
    from tritserve.model.cache import load_or_convert

    packing = choose_packing(weights, source, read_machine().available_bytes)
    with conversion_progress(source) as progress:
        return load_or_convert(source, cache_dir, packing=packing, progress=progress)

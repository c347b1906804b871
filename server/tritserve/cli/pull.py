"""``tritserve pull MODEL``: download a model and convert it, so that serving needs neither network nor time."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path  # noqa: TC003  # typer resolves the annotations
from typing import Annotated

import typer

from tritserve.cli.locate import convert, find_source
from tritserve.errors import ModelFileError
from tritserve.model.checkpoints.hf_config import read_description
from tritserve.model.header import expected_tensors
from tritserve.model.hub import download, download_folder, is_hub_id
from tritserve.model.packed_file import open_packed
from tritserve.model.packed_writer import packed_file_bytes
from tritserve.settings import load_settings, writable_cache_dir

app = typer.Typer(add_completion=False)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Hub id (owner/name or owner/name@revision) or checkpoint folder.")],
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="Folder of packed models.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection: only convert what is here.")] = False,
) -> None:
    """Download a model (resumable) and convert it into the cache folder."""
    settings = load_settings({"cache_dir": cache_dir, "offline": offline or None}).settings
    folder = writable_cache_dir(settings)
    if is_hub_id(model) and not settings.offline:
        source: Path | None = download(
            model, download_folder(folder), before_weights=_require_room, quiet=not sys.stderr.isatty()
        )
    else:
        source = find_source(model, folder)
    if source is None:
        raise ModelFileError(
            f"model {model} is not on this machine and offline mode is on: run `tritserve pull {model}` with a network first"
        )
    path = convert(source, folder, settings.weights)
    with open_packed(path) as packed:
        typer.echo(f"{path}  {packed.file_bytes:,} bytes, weights {packed.header.weights_sha256[:16]}")
    typer.echo(f"ready: tritserve serve {model}")


def _require_room(snapshot: Path, missing_bytes: int) -> None:
    """Refuse, before the weights travel, a model that cannot be served or for which the disk is too small. Raises ModelFileError."""
    description = read_description(snapshot)
    tied = description.config.get("tie_word_embeddings") is True
    specs = list(expected_tensors(description.architecture, tied_head=tied))
    packed_bytes = packed_file_bytes(specs, len(description.tokenizer))
    free = shutil.disk_usage(snapshot).free
    lacking = missing_bytes + packed_bytes - free
    if lacking > 0:
        raise ModelFileError(
            f"{missing_bytes:,} bytes are to be downloaded and {packed_bytes:,} to be converted into, but only {free:,} are free in "
            f"{snapshot.parents[2]}: {lacking:,} bytes are missing. Free some space, or name another folder with --cache-dir or "
            "TRITSERVE_CACHE_DIR"
        )

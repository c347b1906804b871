"""``tritserve models list|rm|gc``: the packed models in the cache folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tritserve.cli.locate import command_settings
from tritserve.errors import ModelFileError, ServerError
from tritserve.model.packed_file import open_packed
from tritserve.settings import readable_cache_dir, writable_cache_dir

app = typer.Typer(help="List and remove packed models in the cache folder.", no_args_is_help=True, add_completion=False)
_CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="Folder of packed models.")]
_LEAST_WIDTH = 120
STALE_SECONDS = 24 * 3600


@app.command("list")
def list_models(cache_dir: _CacheDir = None) -> None:
    """List the packed models."""
    folder = readable_cache_dir(command_settings(cache_dir))
    table = Table("file", "bytes", "weights", "source", "packed", box=None, pad_edge=False)
    for path in packed_models(folder):
        try:
            with open_packed(path) as packed:
                source = packed.header.provenance
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
                weights = packed.header.weights_sha256[:16]
                table.add_row(
                    path.name, f"{packed.file_bytes:,}", weights, f"{source.family}, {source.source_format}", when
                )
        except ModelFileError as error:
            table.add_row(path.name, f"{path.stat().st_size:,}", "", f"[red]damaged:[/] {escape(str(error))}", "")
    console = Console(highlight=False)
    console.width = max(console.width, _LEAST_WIDTH)  # names are there to be copied
    console.print(f"{folder}")
    console.print(table if table.row_count else "no packed models")


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(help="File names as `list` shows them.")], cache_dir: _CacheDir = None
) -> None:
    """Remove packed models; they are converted again when needed."""
    folder = writable_cache_dir(command_settings(cache_dir))
    known = {path.name: path for path in packed_models(folder)}
    for name in names:
        if name not in known:
            raise ServerError(f"{name} is not in {folder}; it has: {', '.join(known) or 'nothing'}")
    for name in names:
        known[name].unlink(missing_ok=True)
        typer.echo(f"removed {name}")


@app.command("gc")
def collect(cache_dir: _CacheDir = None) -> None:
    """Remove damaged models and what an interrupted conversion left more than a day ago."""
    folder = writable_cache_dir(command_settings(cache_dir))
    removed = 0
    for path in sorted(folder.glob("*")):
        if path.is_file() and _is_garbage(path):
            removed += path.stat().st_size
            path.unlink(missing_ok=True)
            typer.echo(f"removed {path.name}")
    typer.echo(f"{removed:,} bytes freed")


def packed_models(folder: Path) -> list[Path]:
    """Return the packed models of a cache folder, by name."""
    return sorted(path for path in folder.glob("*.trit") if path.is_file())


def _is_garbage(path: Path) -> bool:
    if path.suffix == ".trit":
        try:
            open_packed(path).close()
        except ModelFileError:
            return True
        return False
    return ".trit" in path.name and time.time() - path.stat().st_mtime > STALE_SECONDS

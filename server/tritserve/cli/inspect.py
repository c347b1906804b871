"""``tritserve inspect MODEL``: what a model is, without running it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path  # noqa: TC003  # typer resolves the annotations
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tritserve.cli.locate import packed_file
from tritserve.kv_dtype import KvDtype
from tritserve.model.packed_file import PackedModel, TensorKind, open_packed

_TERNARY = frozenset(range(TensorKind.Q, TensorKind.DOWN + 1))


app = typer.Typer(add_completion=False)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, .trit file, hub id, or 'demo'.")] = "demo",
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="Folder of packed models.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model's dimensions, bytes per token, tokens that end it, provenance and tensors."""
    with open_packed(packed_file(model, cache_dir)) as packed:
        description = describe(packed)
        if as_json:
            typer.echo(json.dumps(description, indent=2))
            return
        console = Console(highlight=False)
        facts = Table("", Column(overflow="fold"), show_header=False, box=None, pad_edge=False)
        for name, value in description.items():
            if name != "tensors":
                facts.add_row(f"[bold]{name}[/]", escape(_shown(value)))
        console.print(facts)
        tensors = Table("tensor", "count", "shape (n, k)", "layout", "bytes", box=None, pad_edge=False)
        for row in tensor_groups(packed):
            tensors.add_row(*(str(cell) for cell in row))
        console.print(tensors)


def describe(packed: PackedModel) -> dict[str, object]:
    """Return the facts about a packed model as plain values."""
    header, arch = packed.header, packed.header.architecture
    body = sum(tensor.bytes for tensor in header.tensors if tensor.kind in _TERNARY)
    weights = sum(tensor.n * tensor.k for tensor in header.tensors if tensor.kind in _TERNARY)
    tied = all(tensor.kind is not TensorKind.HEAD for tensor in header.tensors)
    head = sum(
        tensor.bytes for tensor in header.tensors if tensor.kind is (TensorKind.EMBED if tied else TensorKind.HEAD)
    )
    kv = {
        dtype.name.lower(): 2 * arch.n_layers * arch.n_kv_heads * (dtype.element_bytes * arch.head_dim + 4)
        for dtype in KvDtype
    }
    return {
        "file": str(packed.path),
        "file_bytes": packed.file_bytes,
        "architecture": {name: _plain(getattr(arch, name)) for name in arch.__struct_fields__},
        "ternary_weights": weights,
        "body_bytes_per_token": body,
        "head_bytes_per_token": head,
        "kv_bytes_per_token": kv,
        "tied_head": tied,
        "end_tokens": list(header.special_tokens.eos),
        "chat_template": header.chat_template is not None,
        "source": f"{header.provenance.family}, {header.provenance.source_format}",
        "source_files": [f"{each.name} {each.sha256[:16]}" for each in header.provenance.files],
        "weights_sha256": header.weights_sha256,
        "self_test": header.known_answer is not None,
        "tensors": len(header.tensors),
    }


def tensor_groups(packed: PackedModel) -> list[tuple[str, int, str, str, str]]:
    """Return one row per kind of tensor: name, how many, shape, layout, bytes of all."""
    groups = Counter((t.kind, t.n, t.k, t.layout, t.layout_version) for t in packed.header.tensors)
    return [
        (
            kind.name.lower(),
            count,
            f"({n}, {k})",
            f"{layout.name.lower()} v{version}",
            f"{count * next(t.bytes for t in packed.header.tensors if (t.kind, t.n, t.k) == (kind, n, k)):,}",
        )
        for (kind, n, k, layout, version), count in sorted(groups.items())
    ]


def _plain(value: object) -> object:
    return value.name.lower() if hasattr(value, "name") else value


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Convert a checkpoint into a packed model file, one tensor at a time.

At most one tensor is in memory, as stored, as codes and as packed; the embedding goes through in row ranges, straight into the
mapped output. The file is written under a temporary name in the target's folder, synced and renamed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tritserve.errors import ModelFileError, NativeError
from tritserve.model.families import tensor_name
from tritserve.model.header import (
    TERNARY_KINDS,
    Header,
    Packing,
    Provenance,
    SourceFile,
    TensorKind,
    TensorSpec,
    expected_tensors,
    weights_digest,
)
from tritserve.model.known_answer import compute_known_answer
from tritserve.model.packed_writer import PackedWriter, packed_file_bytes
from tritserve.model.rope import rope_tables
from tritserve.native.packing import pack_head, pack_ternary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritserve.model.source import Source

    Progress = Callable[[str, int, int], None]
    """Called with what is being done, bytes done and bytes in all."""

PARTIAL_SUFFIX = ".partial"
_ROWS_BYTES = 32 * 1024 * 1024
_SHIFT_OF = {TensorKind.EMBED: TensorKind.EMBED_SHIFT, TensorKind.HEAD: TensorKind.HEAD_SHIFT}


def pack(
    source: Source,
    target: Path,
    *,
    files: list[SourceFile] | None = None,
    progress: Progress | None = None,
    n_threads: int | None = None,
    packing: Packing = "fast",
) -> Header:
    """Convert ``source`` into the packed file ``target``, whole or not at all. The caller holds the target's lock.

    ``files``: the source's files if they were hashed already; ``packing`` of the ternary weights. Raises ModelFileError, also for a full disk.
    """
    specs = list(expected_tensors(source.description.architecture, tied_head=source.tied_head, packing=packing))
    needed = packed_file_bytes(specs, len(source.description.tokenizer))
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        partial.unlink(missing_ok=True)  # of an interrupted conversion
        _require_space(target.parent, needed)
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            header = _write(source, fd, specs, files or source.files(), progress or _silent, n_threads)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written as uid {os.getuid()}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return header


def _write(
    source: Source,
    fd: int,
    specs: list[TensorSpec],
    files: list[SourceFile],
    progress: Progress,
    n_threads: int | None,
) -> Header:
    description = source.description
    writer = PackedWriter(fd)
    total, done = sum(spec.bytes for spec in specs), 0
    shifts: dict[TensorKind, memoryview] = {}
    cos, sin = rope_tables(
        description.architecture.max_positions, description.architecture.head_dim, description.rope_theta
    )
    for spec in specs:
        progress(f"packing {spec.kind.name.lower()}", done, total)
        if spec.kind in TERNARY_KINDS:
            codes, scale = source.linear(spec.kind, spec.layer)
            writer.add_tensor(spec, [pack_ternary(codes, spec.layout).data], scale)
        elif spec.kind in _SHIFT_OF:
            shifts[_SHIFT_OF[spec.kind]] = _pack_rows(source, fd, spec, writer)
        elif spec.kind in shifts:
            writer.add_tensor(spec, [shifts.pop(spec.kind)])
        elif spec.kind in (TensorKind.ROPE_COS, TensorKind.ROPE_SIN):
            writer.add_tensor(spec, [(cos if spec.kind is TensorKind.ROPE_COS else sin).data])
        else:
            writer.add_tensor(spec, [source.vector(spec.kind, spec.layer).data])
        done += spec.bytes
    writer.add_tokenizer(description.tokenizer)
    header = Header(
        architecture=description.architecture,
        tensors=writer.tensors,
        weights_sha256=weights_digest(description.architecture, writer.tensors),
        tokenizer=writer.tokenizer,
        special_tokens=description.special_tokens,
        chat_template=description.chat_template,
        generation=description.generation,
        config=description.config,
        provenance=Provenance(family=description.family.name, source_format=source.source_format, files=files),
    )
    writer.finish(header)
    progress("computing the known answer", total, total)
    answer = compute_known_answer(fd, header, n_threads=n_threads or len(os.sched_getaffinity(0)))
    header = msgspec.structs.replace(header, known_answer=answer)
    writer.finish(header)
    return header


def _pack_rows(source: Source, fd: int, spec: TensorSpec, writer: PackedWriter) -> memoryview:
    """Pack the embedding or the head in row ranges into the mapped file; return the rows' shifts."""
    offset = writer.reserve_tensor(spec)
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    shifts = np.empty(spec.n, dtype=np.int8)
    step = max(16, _ROWS_BYTES // (4 * spec.k) // 16 * 16)
    # Never closed by hand: the traceback of an error may still look into it. Freed with its last array.
    mapped = mmap.mmap(fd, offset - start + spec.bytes, offset=start)
    out = np.frombuffer(mapped, dtype=np.uint8, count=spec.bytes, offset=offset - start)
    try:
        for first in range(0, spec.n, step):
            rows = source.rows(spec.kind, first, min(step, spec.n - first))
            pack_head(rows, first, (spec.n, spec.k), out, shifts[first : first + len(rows)])
    except NativeError as error:
        raise ModelFileError(f"{tensor_name(spec.kind, -1)}: {error.detail}") from error
    writer.finish_reserved(spec, offset)
    return shifts.data


def _require_space(folder: Path, needed: int) -> None:
    stats = os.statvfs(folder)
    free = stats.f_bavail * stats.f_frsize
    if free < needed:
        raise ModelFileError(
            f"{folder}: {free:,} bytes are free, but the packed model needs {needed:,}: free some space, or name another "
            "folder with --cache-dir or TRITSERVE_CACHE_DIR"
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""

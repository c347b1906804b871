"""libtrit's handles as context managers: Model, KvPool, Session; and what the machine can do.

A handle counts those made from it and refuses to close before them, so that no order of closing can leave C with a dangling
pointer. A handle belongs to one thread at a time; a second call into a busy Session is refused. Calls release the GIL.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Self

import numpy as np

from tritserve.errors import NativeError
from tritserve.isa import Isa
from tritserve.kv_dtype import KvDtype
from tritserve.native._trit import ffi, lib
from tritserve.native.buffers import view
from tritserve.native.outputs import fill_output, read_choice, sample
from tritserve.native.status import check, new_error, text_of
from tritserve.native.types import SEQUENTIAL, Choice, ReadPattern, SessionStats, StepBatch, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tritserve.native import _trit
    from tritserve.native.types import ArchLike, TensorLike

__all__ = [
    "BLOCK_TOKENS",
    "HASH_BYTES",
    "MAX_TOP",
    "KvPool",
    "Model",
    "Session",
    "best_isa",
    "isa_kernels",
    "isa_problem",
    "isa_supported",
    "measure_int8",
    "measure_read",
    "op_names",
    "sample",
    "version",
]

BLOCK_TOKENS = lib.TRIT_BLOCK_TOKENS
HASH_BYTES = lib.TRIT_HASH_BYTES
MAX_TOP = lib.TRIT_MAX_TOP


def version() -> str:
    """Return libtrit's version."""
    return text_of(lib.trit_version())


def best_isa() -> Isa:
    """Return the best instruction set of this CPU and build."""
    return Isa(lib.trit_isa_best())


def isa_supported(isa: Isa) -> bool:
    """Tell whether this CPU, operating system and build can run ``isa``."""
    return bool(lib.trit_isa_supported(isa))


def isa_kernels(isa: Isa) -> list[str]:
    """Return the names of the kernels behind ``isa``, each once, in the order of ops; empty if this build lacks it."""
    found = (text_of(lib.trit_isa_kernel(isa, op)) for op in range(len(op_names())))
    return [name for name in dict.fromkeys(found) if name]


def op_names() -> list[str]:
    """Return what instruction sets have kernels for."""
    names = itertools.takewhile(bool, (text_of(lib.trit_op_name(op)) for op in itertools.count()))
    return list(names)


def isa_problem(isa: Isa) -> str | None:
    """Return why ``isa`` cannot run on this CPU, system and build, None if it can."""
    error = new_error()
    return None if lib.trit_isa_check(isa, error) == lib.TRIT_OK else text_of(error.text)


def measure_read(
    num_bytes: int, *, n_threads: int, repeats: int = 5, pattern: ReadPattern = SEQUENTIAL, fd: int = -1
) -> float:
    """Return the read bandwidth in bytes per second over the start of the file open at ``fd``, mapped as a model is, or over memory of
    its own. Raises NativeError."""
    result, error, c = ffi.new("double *"), new_error(), ffi.new("trit_read_pattern *")
    c.streams, c.prefetch_bytes, c.huge_pages = pattern.streams, pattern.prefetch_bytes, pattern.huge_pages
    check(lib.trit_measure_read(fd, num_bytes, c, n_threads, repeats, result, error), error)
    return result[0]


def measure_int8(isa: Isa, *, n_threads: int, seconds: float = 0.2) -> float:
    """Return int8 operations per second in registers, a multiply-add being two. Raises NativeError."""
    result, error = ffi.new("double *"), new_error()
    check(lib.trit_measure_int8(isa, n_threads, seconds, result, error), error)
    return result[0]


class _Handle:
    """A C pointer, freed once, and only after the handles made from it."""

    def __init__(self, place: _trit.Pointer, free: Callable[[_trit.Pointer], None], parents: Sequence[_Handle]) -> None:
        self._place = place
        self._free = free
        self._parents = parents
        self._num_children = 0
        self._closed = False
        for parent in parents:
            parent._num_children += 1

    @property
    def pointer(self) -> _trit.Pointer:
        """The C handle. Raises NativeError after ``close``."""
        if self._closed:
            raise NativeError("TRIT_ERR_STATE", f"the {type(self).__name__} is closed")
        return self._place[0]

    def close(self) -> None:
        """Free the handle; twice does no harm. Raises NativeError while a handle made from it is open."""
        if self._closed:
            return
        if self._num_children:
            raise NativeError("TRIT_ERR_STATE", f"the {type(self).__name__} still has {self._num_children} open users")
        self._closed = True
        self._free(self._place)
        for parent in self._parents:
            parent._num_children -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Model(_Handle):
    """A packed model file, mapped and checked. Immutable: may be shared by sessions."""

    def __init__(
        self,
        fd: int,
        arch: ArchLike,
        tensors: Sequence[TensorLike],
        *,
        isa: Isa = Isa.AUTO,
        calibrate: bool = False,
        n_threads: int = 1,
    ) -> None:
        """Map the file open at ``fd`` (stays the caller's). ``calibrate``: with AUTO, choose kernels by their speed here; ``timings`` tells
        what was measured. Raises NativeError."""
        c_arch, c_tensors = _c_arch(arch), _c_tensors(tensors)
        place, error = ffi.new("trit_model **"), new_error()
        check(lib.trit_model_open(place, fd, c_arch, c_tensors, len(tensors), isa, n_threads, error), error)
        super().__init__(place, lib.trit_model_close, ())
        if calibrate and isa is Isa.AUTO:
            check(lib.trit_model_calibrate(self.pointer, error), error)
        self.timings = self._read_timings()
        self.vocab = arch.vocab
        self.isa = Isa(lib.trit_model_isa(self.pointer))
        self.body_bytes: int = lib.trit_model_body_bytes(self.pointer)
        self.head_bytes: int = lib.trit_model_head_bytes(self.pointer)
        self.linear_shapes = {(t.kind, t.layer): (t.n, t.k) for t in tensors}

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels that serve, each once, in the order of ops."""
        found = (text_of(lib.trit_model_kernel(self.pointer, op)) for op in range(len(op_names())))
        return list(dict.fromkeys(found))

    def _read_timings(self) -> list[Timing]:
        most = lib.trit_model_timings(self.pointer, ffi.NULL, 0)
        found = ffi.new("trit_timing[]", max(1, most))
        lib.trit_model_timings(self.pointer, found, most)
        names = op_names()
        return [
            Timing(names[t.op], text_of(t.kernel), t.seconds, bool(t.chosen)) for t in (found[i] for i in range(most))
        ]

    def kv_region_bytes(self, n_blocks: int, dtype: KvDtype = KvDtype.INT16) -> int:
        """Return the bytes of a KV region of ``n_blocks``. Raises NativeError."""
        result, error = ffi.new("uint64_t *"), new_error()
        check(lib.trit_kv_region_bytes(self.pointer, n_blocks, dtype, result, error), error)
        return result[0]


class KvPool(_Handle):
    """The paged KV cache in the shared memory behind a descriptor."""

    def __init__(
        self, model: Model, fd: int, n_blocks: int, *, dtype: KvDtype = KvDtype.INT16, reset: bool = False
    ) -> None:
        """Map the region at ``fd`` (stays the caller's). Raises NativeError if it belongs to another model or is of another type, unless
        ``reset``."""
        place, error = ffi.new("trit_kv **"), new_error()
        check(lib.trit_kv_attach(place, model.pointer, fd, n_blocks, dtype, reset, error), error)
        super().__init__(place, lib.trit_kv_detach, (model,))
        self.n_blocks = n_blocks
        self._error = error
        self._whole = ffi.new("int32_t *")
        self._hash = ffi.new("uint8_t[32]")

    def commit(self, block: int, chain_hash: bytes) -> None:
        """Seal a full block under its 32-byte chain hash. Raises NativeError."""
        if len(chain_hash) != HASH_BYTES:
            raise ValueError(f"chain_hash has {len(chain_hash)} bytes, expected {HASH_BYTES}")
        ffi.buffer(self._hash)[:] = chain_hash
        check(lib.trit_kv_commit(self.pointer, block, self._hash, self._error), self._error)

    def invalidate(self, block: int) -> None:
        """Break the seal, before the block is written again. Raises NativeError."""
        check(lib.trit_kv_invalidate(self.pointer, block, self._error), self._error)

    def verify(self, block: int) -> bytes | None:
        """Return the chain hash of a sealed block whose contents match its checksum, else None. Raises NativeError."""
        check(lib.trit_kv_verify(self.pointer, block, self._whole, self._hash, self._error), self._error)
        return bytes(ffi.buffer(self._hash)) if self._whole[0] else None

    def poison(self, block: int) -> None:
        """Fill a block with what would show if it were read (for tests). Raises NativeError."""
        check(lib.trit_kv_poison(self.pointer, block, self._error), self._error)


class Session(_Handle):
    """Threads and scratch for steps of up to the given sizes."""

    def __init__(
        self,
        model: Model,
        kv: KvPool,
        *,
        n_threads: int,
        max_rows: int,
        max_seqs: int,
        max_outputs: int,
        skip_zeros: bool = True,
    ) -> None:
        """Allocate everything a step needs. Without ``skip_zeros`` needless weights are read, too. Raises NativeError."""
        options = ffi.new("trit_session_options *")
        options.n_threads, options.max_rows = n_threads, max_rows
        options.max_seqs, options.max_outputs = max_seqs, max_outputs
        options.no_skip = not skip_zeros
        place, error = ffi.new("trit_session **"), new_error()
        check(lib.trit_session_create(place, model.pointer, kv.pointer, options, error), error)
        super().__init__(place, lib.trit_session_destroy, (model, kv))
        self._model = model
        self._error = error
        self._max_outputs = max_outputs
        self._batch = ffi.new("trit_batch *")
        self._outputs = ffi.new("trit_output[]", max_outputs)
        self._choices = ffi.new("trit_choice[]", max_outputs)
        self._busy = threading.Lock()

    def step(self, batch: StepBatch, logits: NDArray[np.float32] | None = None) -> list[Choice]:
        """Run one model step: write K and V of every row, answer every output. One crossing into C.

        ``logits`` (outputs, vocab) float32 is written if given. Raises NativeError; then nothing can be said about the
        K and V of the step's rows.
        """
        self._take()
        try:
            n_outputs = len(batch.outputs)
            if n_outputs > self._max_outputs:
                raise NativeError("TRIT_ERR_ARGUMENT", f"{n_outputs} outputs, expected at most {self._max_outputs}")
            keep = self._fill(batch)
            out = ffi.NULL
            if logits is not None:
                out = view("logits", logits, np.float32, (n_outputs, self._model.vocab), writable=True)
            status = lib.trit_session_step(self.pointer, self._batch, self._choices, out, self._error)
            check(status, self._error)
            keep.clear()
            return [read_choice(self._choices[i]) for i in range(n_outputs)]
        finally:
            self._busy.release()

    def stats(self) -> SessionStats:
        """Return the counters."""
        c = ffi.new("trit_session_stats *")
        lib.trit_session_read_stats(self.pointer, c)
        return SessionStats(
            steps=c.steps,
            rows=c.rows,
            down_inputs=c.down_inputs,
            down_zeros=c.down_zeros,
            gates=c.gates,
            gates_closed=c.gates_closed,
            bytes_skipped=c.bytes_skipped,
            head_rows=c.head_rows,
            screened_rows=c.screened_rows,
            undecided_rows=c.undecided_rows,
            finished_panels=c.finished_panels,
            head_bytes=c.head_bytes,
        )

    def time_linears(self, rows: int, repeats: int) -> float:
        """Return the seconds of all ternary linears once for ``rows`` rows, best of ``repeats``. Raises NativeError."""
        result = ffi.new("double *")
        self._take()
        try:
            check(lib.trit_session_time_linears(self.pointer, rows, repeats, result, self._error), self._error)
        finally:
            self._busy.release()
        return result[0]

    def linear(self, kind: int, layer: int, x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Run one ternary linear as a step does: (rows, k) float32 to (rows, k) int8 and (rows, n) float32. Raises NativeError."""
        n, k = self._model.linear_shapes[kind, layer]
        rows = x.shape[0]
        q, y = np.empty((rows, k), dtype=np.int8), np.empty((rows, n), dtype=np.float32)
        c_x = view("x", x, np.float32, (rows, k))
        c_q, c_y = view("q", q, np.int8, (rows, k)), view("y", y, np.float32, (rows, n))
        self._take()
        try:
            status = lib.trit_session_linear(self.pointer, kind, layer, c_x, rows, c_q, c_y, self._error)
            check(status, self._error)
        finally:
            self._busy.release()
        return q, y

    def close(self) -> None:
        """Free the session. Raises NativeError while a step is running."""
        self._take()
        try:
            super().close()
        finally:
            self._busy.release()

    def _take(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise NativeError("TRIT_ERR_STATE", "the Session is in use by another thread")

    def _fill(self, batch: StepBatch) -> list[_trit.CData]:
        """Point the C batch at the arrays; the views returned must live until the call returns."""
        n_seqs, max_blocks = batch.block_tables.shape
        keep = [
            view("token_ids", batch.token_ids, np.int32, (None,)),
            view("cu_rows", batch.cu_rows, np.int32, (n_seqs + 1,)),
            view("start_pos", batch.start_pos, np.int32, (n_seqs,)),
            view("block_tables", batch.block_tables, np.int32, (n_seqs, max_blocks)),
        ]
        c = self._batch
        c.token_ids, c.cu_rows, c.start_pos, c.block_tables = keep
        c.outputs = self._outputs
        c.n_seqs, c.max_blocks = n_seqs, max_blocks
        c.n_rows, c.n_outputs = batch.token_ids.shape[0], len(batch.outputs)
        for i, output in enumerate(batch.outputs):
            fill_output(self._outputs[i], output, self._model.vocab, keep)
        return keep


def _c_arch(arch: ArchLike) -> _trit.Arch:
    c = ffi.new("trit_arch *")
    c.hidden, c.intermediate = arch.hidden, arch.intermediate
    c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim = arch.n_layers, arch.n_heads, arch.n_kv_heads, arch.head_dim
    c.vocab, c.max_positions = arch.vocab, arch.max_positions
    c.activation, c.sub_norms, c.norm_eps = int(arch.activation), int(arch.sub_norms), arch.norm_eps
    return c


def _c_tensors(tensors: Sequence[TensorLike]) -> _trit.Tensors:
    c = ffi.new("trit_tensor[]", max(1, len(tensors)))
    for i, tensor in enumerate(tensors):
        entry = c[i]
        entry.kind, entry.layer = int(tensor.kind), tensor.layer
        entry.layout, entry.layout_version = int(tensor.layout), tensor.layout_version
        entry.n, entry.k, entry.offset, entry.bytes = tensor.n, tensor.k, tensor.offset, tensor.bytes
        entry.scale = tensor.scale
    return c

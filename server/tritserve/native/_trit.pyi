"""What cffi generates from native/include/trit/trit.h, as far as this package uses it."""

from typing import Literal, overload

from numpy import generic
from numpy.typing import NDArray

class CData:
    """A C pointer or array."""

class Pointer(CData):
    """A handle's pointer, or the place of one."""

    def __getitem__(self, index: int) -> Pointer: ...

class Ints(CData):
    def __getitem__(self, index: int) -> int: ...

class Floats(CData):
    def __getitem__(self, index: int) -> float: ...

class Error(CData):
    status: int
    text: CData

class Arch(CData):
    hidden: int
    intermediate: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    activation: int
    sub_norms: int
    norm_eps: float

class Tensor(CData):
    kind: int
    layer: int
    layout: int
    layout_version: int
    n: int
    k: int
    offset: int
    bytes: int
    scale: float

class Tensors(CData):
    def __getitem__(self, index: int) -> Tensor: ...

class Sampling(CData):
    seed: int
    position: int
    temperature: float
    top_p: float
    min_p: float
    top_k: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    history: CData
    n_history: int
    n_prompt: int
    bias_ids: CData
    bias_values: CData
    n_bias: int
    suppressed: CData
    n_suppressed: int
    mask: CData
    mask_ready: CData

class Output(CData):
    row: int
    target: int
    n_top: int
    sampling: Sampling

class Outputs(CData):
    def __getitem__(self, index: int) -> Output: ...

class Choice(CData):
    token: int
    logprob: float
    n_top: int
    top_ids: Ints
    top_logprobs: Floats

class Choices(CData):
    def __getitem__(self, index: int) -> Choice: ...

class Batch(CData):
    n_seqs: int
    n_rows: int
    n_outputs: int
    max_blocks: int
    token_ids: CData
    cu_rows: CData
    start_pos: CData
    block_tables: CData
    outputs: CData

class Options(CData):
    n_threads: int
    max_rows: int
    max_seqs: int
    max_outputs: int
    no_skip: int

class ReadPattern(CData):
    streams: int
    prefetch_bytes: int
    huge_pages: int

class Stats(CData):
    steps: int
    rows: int
    down_inputs: int
    down_zeros: int
    gates: int
    gates_closed: int
    bytes_skipped: int
    head_rows: int
    screened_rows: int
    undecided_rows: int
    finished_panels: int
    head_bytes: int

class Timing(CData):
    op: int
    chosen: int
    seconds: float
    kernel: CData

class Timings(CData):
    def __getitem__(self, index: int) -> Timing: ...

class _FFI:
    NULL: CData
    @overload
    def new(self, cdecl: Literal["trit_error *"]) -> Error: ...
    @overload
    def new(self, cdecl: Literal["trit_arch *"]) -> Arch: ...
    @overload
    def new(self, cdecl: Literal["trit_tensor[]"], init: int) -> Tensors: ...
    @overload
    def new(self, cdecl: Literal["trit_timing[]"], init: int) -> Timings: ...
    @overload
    def new(self, cdecl: Literal["trit_output[]"], init: int) -> Outputs: ...
    @overload
    def new(self, cdecl: Literal["trit_choice[]"], init: int) -> Choices: ...
    @overload
    def new(self, cdecl: Literal["trit_choice *"]) -> Choice: ...
    @overload
    def new(self, cdecl: Literal["trit_sampling *"]) -> Sampling: ...
    @overload
    def new(self, cdecl: Literal["trit_batch *"]) -> Batch: ...
    @overload
    def new(self, cdecl: Literal["trit_session_options *"]) -> Options: ...
    @overload
    def new(self, cdecl: Literal["trit_session_stats *"]) -> Stats: ...
    @overload
    def new(self, cdecl: Literal["trit_read_pattern *"]) -> ReadPattern: ...
    @overload
    def new(self, cdecl: Literal["trit_model **", "trit_kv **", "trit_session **"]) -> Pointer: ...
    @overload
    def new(self, cdecl: Literal["uint64_t *", "int32_t *"]) -> Ints: ...
    @overload
    def new(self, cdecl: Literal["double *"]) -> Floats: ...
    @overload
    def new(self, cdecl: Literal["uint8_t[32]"]) -> CData: ...
    def from_buffer(self, cdecl: str, python_buffer: NDArray[generic], require_writable: bool = ...) -> CData: ...
    def string(self, cdata: CData) -> bytes: ...
    def buffer(self, cdata: CData, size: int = ...) -> memoryview: ...
    @overload
    def unpack(self, cdata: Ints, length: int) -> list[int]: ...
    @overload
    def unpack(self, cdata: Floats, length: int) -> list[float]: ...

class _Lib:
    TRIT_API_VERSION: int
    TRIT_ISA_COUNT: int
    TRIT_BLOCK_TOKENS: int
    TRIT_CHUNK_TOKENS: int
    TRIT_PANEL: int
    TRIT_GROUP: int
    TRIT_HEAD_PANEL: int
    TRIT_MAX_TOP: int
    TRIT_HASH_BYTES: int
    TRIT_OK: int

    def trit_status_name(self, status: int) -> CData: ...
    def trit_version(self) -> CData: ...
    def trit_isa_name(self, isa: int) -> CData: ...
    def trit_isa_supported(self, isa: int) -> int: ...
    def trit_isa_best(self) -> int: ...
    def trit_isa_check(self, isa: int, err: Error) -> int: ...
    def trit_isa_kernel(self, isa: int, op: int) -> CData: ...
    def trit_op_name(self, op: int) -> CData: ...
    def trit_model_kernel(self, model: CData, op: int) -> CData: ...
    def trit_model_calibrate(self, model: CData, err: Error) -> int: ...
    def trit_model_timings(self, model: CData, out: CData, most: int) -> int: ...
    def trit_layout_bytes(self, layout: int, n: int, k: int) -> int: ...
    def trit_model_open(
        self, out: Pointer, fd: int, arch: Arch, tensors: Tensors, n_tensors: int, isa: int, n_threads: int, err: Error
    ) -> int: ...
    def trit_model_close(self, model: Pointer) -> None: ...
    def trit_model_isa(self, model: Pointer) -> int: ...
    def trit_model_body_bytes(self, model: Pointer) -> int: ...
    def trit_model_head_bytes(self, model: Pointer) -> int: ...
    def trit_pack_ternary(
        self, layout: int, codes: CData, n: int, k: int, out: CData, out_bytes: int, err: Error
    ) -> int: ...
    def trit_unpack_ternary(
        self, layout: int, packed: CData, bytes: int, n: int, k: int, codes: CData, err: Error
    ) -> int: ...
    def trit_pack_dense(
        self, t2: CData, t2_bytes: int, n: int, k: int, out: CData, out_bytes: int, err: Error
    ) -> int: ...
    def trit_unpack_dense(
        self, dense: CData, bytes: int, n: int, k: int, t2: CData, t2_bytes: int, err: Error
    ) -> int: ...
    def trit_unpack_hf(self, bytes: CData, n: int, k: int, codes: CData, err: Error) -> int: ...
    def trit_pack_head(
        self,
        rows: CData,
        row0: int,
        n_rows: int,
        n: int,
        k: int,
        out: CData,
        out_bytes: int,
        shift: CData,
        err: Error,
    ) -> int: ...
    def trit_kv_region_bytes(self, model: Pointer, n_blocks: int, dtype: int, bytes: Ints, err: Error) -> int: ...
    def trit_kv_attach(
        self, out: Pointer, model: Pointer, fd: int, n_blocks: int, dtype: int, reset: int, err: Error
    ) -> int: ...
    def trit_kv_detach(self, kv: Pointer) -> None: ...
    def trit_kv_commit(self, kv: Pointer, block: int, hash: CData, err: Error) -> int: ...
    def trit_kv_invalidate(self, kv: Pointer, block: int, err: Error) -> int: ...
    def trit_kv_verify(self, kv: Pointer, block: int, whole: Ints, hash: CData, err: Error) -> int: ...
    def trit_kv_poison(self, kv: Pointer, block: int, err: Error) -> int: ...
    def trit_sample(
        self, logits: CData, vocab: int, sampling: Sampling, target: int, n_top: int, out: Choice, err: Error
    ) -> int: ...
    def trit_session_create(self, out: Pointer, model: Pointer, kv: Pointer, options: Options, err: Error) -> int: ...
    def trit_session_destroy(self, session: Pointer) -> None: ...
    def trit_session_step(self, session: Pointer, batch: Batch, choices: Choices, logits: CData, err: Error) -> int: ...
    def trit_session_read_stats(self, session: Pointer, out: Stats) -> None: ...
    def trit_measure_read(
        self,
        fd: int,
        bytes: int,
        pattern: ReadPattern,
        n_threads: int,
        repeats: int,
        bytes_per_second: Floats,
        err: Error,
    ) -> int: ...
    def trit_measure_int8(
        self, isa: int, n_threads: int, seconds: float, ops_per_second: Floats, err: Error
    ) -> int: ...
    def trit_session_time_linears(
        self, session: Pointer, rows: int, repeats: int, seconds: Floats, err: Error
    ) -> int: ...
    def trit_session_linear(
        self, session: Pointer, kind: int, layer: int, x: CData, rows: int, q: CData, y: CData, err: Error
    ) -> int: ...

ffi: _FFI
lib: _Lib

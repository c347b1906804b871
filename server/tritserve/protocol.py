"""The frames between the front and a worker: the only thing both sides share.

A frame on the socket is a 4-byte little-endian length (of what follows, at most ``MAX_FRAME_BYTES``) and one msgpack value, a tagged
struct of ``ToWorker`` or ``ToFront``. The first frame each way carries ``PROTOCOL_VERSION``; another version ends the connection.
What crosses is token ids, sampling parameters and token events: never text, never HTTP.

One *sequence* is one choice of one request. The front numbers sequences, and they are never reused within a worker's life.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL_VERSION = 2
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_GRAMMAR_BYTES = 1024 * 1024
"""Largest grammar a worker takes; the setting of the same name is smaller."""
_LENGTH = struct.Struct("<I")

FinishReason = Literal[
    "stop", "length", "cancelled", "numeric_fault", "no_token", "rejected", "grammar_too_complex", "grammar_dead_end"
]
"""Why a sequence ended. ``no_token``: every id was masked out; ``rejected``: the worker cannot run it (an id outside the vocabulary);
``grammar_too_complex``: its grammar met a limit; ``grammar_dead_end``: it is not complete, and no id that is allowed continues it."""
GrammarKind = Literal["json_schema", "regex", "lark"]
GRAMMAR_KINDS: tuple[GrammarKind, ...] = ("json_schema", "regex", "lark")


class ProtocolError(Exception):
    """The peer sent something that is not a frame of this protocol."""


class Grammar(msgspec.Struct, frozen=True):
    """What a completion must conform to: JSON of a schema, a regular expression for the whole text, or a Lark grammar."""

    kind: GrammarKind
    source: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """What the sampler needs of one sequence (docs/numerics.md, "Sampling"). ``seed`` is the choice's own, unsigned 64 bit.

    ``num_top_logprobs`` -1: no log-probabilities at all, which costs less; 0: that of the chosen token.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: list[int] | None = None
    num_top_logprobs: int = -1


class Start(msgspec.Struct, frozen=True, tag="start", kw_only=True):
    """The first frame to a worker: what to serve and how. ``cpus`` pins the worker (empty: wherever it may run); ``max_model_len`` 0 is the
    model's own; ``kv_bytes`` is the size of the KV memory behind the inherited descriptor."""

    version: int
    model_path: str
    isa: str
    calibrate: bool = True
    num_threads: int
    kv_bytes: int
    max_model_len: int
    max_batch_size: int
    max_step_tokens: int
    kv_dtype: str = "int16"
    cpus: list[int] = []


class Submit(msgspec.Struct, frozen=True, tag="submit", kw_only=True):
    """Start (or resume) one sequence.

    ``prompt`` are the prompt's ids; ``forced`` are completion tokens already delivered (after a worker's death): they are computed like
    prompt but count as completion, and generation goes on behind them. ``prompt_logprobs`` >= 0 asks for a ``PromptLogprobs`` event with that many
    top entries (and bypasses the prefix cache). ``max_tokens`` counts completion tokens including ``forced``; 0 only with prompt
    log-probabilities. The token that ends the sequence (``stop_token_ids``) is delivered as its last event. ``min_tokens``: the stop ids are
    suppressed before so many completion tokens. ``group`` names the request: sequences of one group share a prompt, and later ones wait for the
    first one's prefill so that they find its blocks. ``arrival`` orders waiting sequences (smaller first) within ``priority`` (larger first).
    ``cache_salt`` separates prefix caches. With a ``grammar`` only completions that conform to it are chosen: the ids in
    ``stop_token_ids`` where it is complete, and no other special ones at all.
    """

    seq_id: int
    group: int
    prompt: list[int]
    forced: list[int] = []
    sampling: SamplingParams
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: list[int] = []
    prompt_logprobs: int = -1
    priority: int = 0
    arrival: int = 0
    cache_salt: bytes = b""
    grammar: Grammar | None = None
    alone: bool = False  # a suspect after deaths: no other sequence runs in its steps


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop these sequences at the next step; unknown ids are ignored. Each one known ends with a ``cancelled`` event."""

    seq_ids: list[int]


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a ``Pong`` between two steps."""

    nonce: int


ToWorker = Start | Submit | Abort | Ping


class KernelTime(msgspec.Struct, frozen=True):
    """What calibration measured: the best of a few calls of one kernel in the model's sizes. ``chosen``: it serves ``op``."""

    op: str
    kernel: str
    seconds: float
    chosen: bool


class Hello(msgspec.Struct, frozen=True, tag="hello", kw_only=True):
    """The worker is up: model mapped, self-test passed, cache adopted. A prompt fits if it is shorter than ``max_model_len``."""

    version: int
    pid: int
    vocab: int
    isa: str
    kernels: str
    kernel_times: list[KernelTime] = []
    num_threads: int
    num_blocks: int
    num_adopted_blocks: int
    block_bytes: int
    max_model_len: int
    load_seconds: float
    self_test_seconds: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot start (``fatal``: starting again cannot help)."""

    message: str
    fatal: bool


class StepStarted(msgspec.Struct, frozen=True, tag="step_started"):
    """Sent before each step: who is in it, as (seq_id, start, stop) of the tokens that are computed. If the worker dies now, these are the
    suspects; one that got past the tokens of its last death is not to blame."""

    step: int
    sequences: list[tuple[int, int, int]]


class GrammarStarted(msgspec.Struct, frozen=True, tag="grammar_started"):
    """Sent before a sequence's grammar is compiled, beside the steps. If the worker dies before it is done, the sequence is a suspect."""

    seq_id: int


class GrammarVerdict(msgspec.Struct, frozen=True):
    """What the process that tries grammars out says of one: ``refusal`` is the reason for the client, None: it can be used. The first one
    comes unasked, when it can begin. It is sent a ``Grammar`` at a time."""

    refusal: str | None


class GrammarDone(msgspec.Struct, frozen=True, tag="grammar_done"):
    """The grammar is there, or was refused (the sequence's end follows). ``seconds`` of compiling; None: it was in the cache."""

    seq_id: int
    seconds: float | None


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One position's log-probabilities: the chosen (or given) token, and the most likely ones in descending order."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class TokenEvent(msgspec.Struct, frozen=True, array_like=True):
    """One new token of a sequence; ``index`` counts completion tokens from 0. ``logprob`` is 0 if none was asked for. ``finish`` ends the
    sequence."""

    seq_id: int
    index: int
    token: int
    logprob: float
    top: list[tuple[int, float]]
    finish: FinishReason | None = None


class EndEvent(msgspec.Struct, frozen=True, array_like=True):
    """A sequence ends without a new token (cancelled, a fault, or max_tokens reached by its forced part)."""

    seq_id: int
    finish: FinishReason


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of prompt tokens ``start`` .. (token 0 has none); sent in pieces, in order, as chunks are computed."""

    seq_id: int
    start: int
    entries: list[TokenLogprob]


class StepStats(msgspec.Struct, frozen=True, array_like=True):
    """What one step did, for the metrics."""

    seconds: float
    num_decode_rows: int
    num_prefill_rows: int
    num_cached_tokens: int  # prompt tokens taken from the prefix cache by sequences admitted in this step
    num_running: int
    num_waiting: int
    num_used_blocks: int
    num_evictions: int
    num_preemptions: int = 0
    mask_seconds: list[float] = []  # time each grammar mask of the step took, beside the forward pass
    num_screened_rows: int = 0  # rows chosen from the output head's high plane
    num_undecided_rows: int = 0  # of them, those that then read the low plane whole
    num_finished_candidates: int = 0  # looked up in the low plane one by one


class StepDone(msgspec.Struct, frozen=True, tag="step_done", kw_only=True):
    """Everything one step (or an abort between steps) produced."""

    step: int
    tokens: list[TokenEvent] = []
    ends: list[EndEvent] = []
    prompt_logprobs: list[PromptLogprobs] = []
    cached: list[
        tuple[int, int]
    ] = []  # (seq_id, prompt tokens found in the prefix cache), once per sequence, when admitted
    stats: StepStats


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Answer to ``Ping``."""

    nonce: int


WorkerReport = StepStarted | StepDone | GrammarStarted | GrammarDone
ToFront = Hello | Failed | WorkerReport | Pong

# Text that is not UTF-8 is a UnicodeDecodeError to msgspec, and nesting too deep a RecursionError.
_NOT_A_MESSAGE = (msgspec.MsgspecError, ValueError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
to_front_decoder: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)


def encode_frame(message: ToWorker | ToFront) -> bytes:
    """Encode one message with its length in front. Raises ProtocolError if it would exceed ``MAX_FRAME_BYTES``."""
    return pack_frame(_encoder.encode(message))


def pack_frame(payload: bytes) -> bytes:
    """Put a payload's length in front. Raises ProtocolError if it would exceed ``MAX_FRAME_BYTES``."""
    if len(payload) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(payload)} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cut a byte stream into frame payloads; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every payload completed by ``data``. Raises ProtocolError on a length past the limit."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield payload


def decode_to_worker(payload: bytes) -> ToWorker:
    """Decode a payload the front sent. Raises ProtocolError if it is not one."""
    try:
        return to_worker_decoder.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a frame to a worker: {error}") from error


def decode_to_front(payload: bytes) -> ToFront:
    """Decode a payload the worker sent. Raises ProtocolError if it is not one."""
    try:
        return to_front_decoder.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a frame to the front: {error}") from error

"""Fill the C structs of a step's outputs, and read its choices. Structs are reused from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritserve.native._trit import ffi, lib
from tritserve.native.buffers import view
from tritserve.native.status import check, new_error
from tritserve.native.types import Choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritserve.native import _trit
    from tritserve.native.types import Output, Sampling

_NULL = ffi.NULL


def fill_sampling(c: _trit.Sampling, s: Sampling, vocab: int, keep: list[_trit.CData]) -> None:
    """Write every field of ``c``; views that it points to are appended to ``keep``."""
    c.seed = s.seed
    c.position = s.position
    c.temperature = s.temperature
    c.top_p = s.top_p
    c.min_p = s.min_p
    c.top_k = s.top_k
    c.repetition_penalty = s.repetition_penalty
    c.presence_penalty = s.presence_penalty
    c.frequency_penalty = s.frequency_penalty
    c.n_prompt = s.n_prompt
    c.n_history = s.history.shape[0]
    c.n_bias = s.bias_ids.shape[0]
    c.n_suppressed = s.suppressed.shape[0]
    c.history = _ids("history", s.history, keep)
    c.bias_ids = _ids("bias_ids", s.bias_ids, keep)
    c.bias_values = _NULL
    if s.bias_ids.shape[0]:
        values = view("bias_values", s.bias_values, np.float32, (s.bias_ids.shape[0],))
        keep.append(values)
        c.bias_values = values
    c.suppressed = _ids("suppressed", s.suppressed, keep)
    c.mask = c.mask_ready = _NULL
    if s.mask is not None:
        mask = view("mask", s.mask, np.uint32, ((vocab + 31) // 32,))
        keep.append(mask)
        c.mask = mask
        if s.mask_ready is not None:
            ready = view("mask_ready", s.mask_ready, np.int32, (1,))
            keep.append(ready)
            c.mask_ready = ready


def _ids(name: str, ids: NDArray[np.int32], keep: list[_trit.CData]) -> _trit.CData:
    if not ids.shape[0]:
        return _NULL
    pointer = view(name, ids, np.int32, (None,))
    keep.append(pointer)
    return pointer


def fill_output(c: _trit.Output, output: Output, vocab: int, keep: list[_trit.CData]) -> None:
    """Write every field of ``c``; a scored output's sampling is not read by C and stays as it is."""
    c.row = output.row
    c.target = output.target
    c.n_top = output.n_top
    if output.target < 0:
        fill_sampling(c.sampling, output.sampling, vocab, keep)


def read_choice(c: _trit.Choice) -> Choice:
    """Copy a C choice."""
    n = c.n_top
    if n == 0:
        return Choice(c.token, c.logprob, (), ())
    return Choice(c.token, c.logprob, tuple(ffi.unpack(c.top_ids, n)), tuple(ffi.unpack(c.top_logprobs, n)))


def sample(logits: NDArray[np.float32], sampling: Sampling, *, target: int = -1, n_top: int = 0) -> Choice:
    """Run the sampler alone on (vocab) float32 logits, exactly as a step does. Raises NativeError."""
    vocab = logits.shape[0]
    keep: list[_trit.CData] = [view("logits", logits, np.float32, (None,))]
    c = ffi.new("trit_sampling *")
    fill_sampling(c, sampling, vocab, keep)
    choice, error = ffi.new("trit_choice *"), new_error()
    check(lib.trit_sample(keep[0], vocab, c, target, n_top, choice, error), error)
    return read_choice(choice)

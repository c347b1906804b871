"""Handles and steps as the engine uses them."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_model import SMALL, all_logits, batch_of, kv_memory, make_tiny_model, tokens

from tritserve.errors import NativeError
from tritserve.native import lib as native
from tritserve.native.lib import BLOCK_TOKENS, KvPool, Model, Session, sample
from tritserve.native.types import TOKEN_NONE, TOKEN_NONFINITE, Output, Sampling, StepBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiny_model import TinyModel

PROMPT = [5, 99, 3, 7, 150, 42, 42, 8, 61, 2, 17, 33, 200, 11, 90, 1, 77, 64, 128]
BLOCKS = [9, 3, 20, 14]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return make_tiny_model()


@pytest.fixture
def session(tiny: TinyModel) -> Iterator[Session]:
    with tiny.session() as (session, _):
        yield session


def greedy_continuation(session: Session, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    [choice] = session.step(batch_of([(ids, 0, BLOCKS)], [Output(row=len(ids) - 1)]))
    for _ in range(n - 1):
        ids.append(choice.token)
        [choice] = session.step(batch_of([([ids[-1]], len(ids) - 1, BLOCKS)], [Output(row=0)]))
    return [*ids[len(prompt) :], choice.token]


def test_decoding_chooses_what_a_prefill_of_the_same_tokens_would(tiny: TinyModel, session: Session) -> None:
    completion = greedy_continuation(session, PROMPT, 20)
    ids = PROMPT + completion[:-1]
    logits = all_logits(session, ids, BLOCKS, SMALL.vocab)
    assert logits[len(PROMPT) - 1 :].argmax(axis=1).tolist() == completion


def test_choices_carry_logprobs_and_top_tokens(session: Session) -> None:
    logits = np.empty((3, SMALL.vocab), dtype=np.float32)
    outputs = [Output(row=4, n_top=5), Output(row=4, target=17), Output(row=18, n_top=20)]
    chosen, scored, last = session.step(batch_of([(PROMPT, 0, BLOCKS)], outputs), logits)
    expected = logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    expected -= logits.max(axis=1, keepdims=True)
    assert chosen.token == chosen.top_ids[0] == logits[0].argmax()
    assert chosen.top_ids == tuple(np.argsort(-logits[0], kind="stable")[:5].tolist())
    np.testing.assert_allclose(chosen.top_logprobs, np.sort(expected[0])[::-1][:5], atol=1e-4)
    assert chosen.logprob == chosen.top_logprobs[0]
    assert scored.token == 17
    assert scored.top_ids == ()
    assert scored.logprob == pytest.approx(expected[1, 17], abs=1e-4)
    assert len(last.top_ids) == 20


def test_a_step_is_one_crossing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = native.lib

    class Counting:
        def __getattr__(self, name: str) -> object:
            if name.startswith("trit_"):
                calls.append(name)
            return getattr(real, name)

    batch = batch_of([(PROMPT, 0, BLOCKS), ([1, 2], 0, [30])], [Output(row=18, n_top=3), Output(row=20)])
    monkeypatch.setattr(native, "lib", Counting())
    session.step(batch)
    assert calls == ["trit_session_step"]


def test_a_seeded_sample_is_reproducible_and_the_same_alone_and_in_a_step(session: Session) -> None:
    logits = np.empty((1, SMALL.vocab), dtype=np.float32)
    history = np.array(PROMPT, dtype=np.int32)
    sampling = Sampling(
        seed=2**63 + 5,
        position=19,
        temperature=1.3,
        top_p=0.9,
        top_k=50,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        history=history,
        n_prompt=10,
        bias_ids=np.array([3, 4], dtype=np.int32),
        bias_values=np.array([1.5, -2.0], dtype=np.float32),
        suppressed=np.array([0], dtype=np.int32),
    )
    batch = batch_of([(PROMPT, 0, BLOCKS)], [Output(row=18, sampling=sampling, n_top=4)])
    [choice] = session.step(batch, logits)
    assert session.step(batch) == [choice]
    assert sample(logits[0], sampling, n_top=4) == choice


def test_the_mask_may_come_late_from_another_thread(session: Session) -> None:
    """Also shows that a step lets other Python threads run."""
    mask, ready = np.zeros((SMALL.vocab + 31) // 32, dtype=np.uint32), np.zeros(1, dtype=np.int32)

    def grammar() -> None:
        time.sleep(0.05)
        mask[40 // 32] |= np.uint32(1 << 40 % 32)
        ready[0] = 1

    thread = threading.Thread(target=grammar)
    thread.start()
    sampling = Sampling(mask=mask, mask_ready=ready)
    [choice] = session.step(batch_of([(PROMPT, 0, BLOCKS)], [Output(row=18, sampling=sampling)]))
    thread.join()
    assert choice.token == 40


def test_special_answers_of_the_sampler() -> None:
    logits = np.zeros(10, dtype=np.float32)
    nothing = Sampling(mask=np.zeros(1, dtype=np.uint32))
    assert sample(logits, nothing).token == TOKEN_NONE
    logits[3] = np.nan
    assert sample(logits, Sampling()).token == TOKEN_NONFINITE


def test_committed_blocks_outlive_their_handle(tiny: TinyModel) -> None:
    digest = hashlib.sha256(b"chain").digest()
    with tiny.open() as model, kv_memory(model, 32) as fd:
        with KvPool(model, fd, 32) as kv, _session(model, kv) as session:
            first = greedy_continuation(session, PROMPT, 3)
            assert kv.verify(BLOCKS[0]) is None
            kv.commit(BLOCKS[0], digest)
        with KvPool(model, fd, 32) as kv, _session(model, kv) as session:
            assert kv.verify(BLOCKS[0]) == digest
            rest = batch_of([(PROMPT[BLOCK_TOKENS:], BLOCK_TOKENS, BLOCKS)], [Output(row=2)])
            assert tokens(session.step(rest)) == first[:1]
            kv.invalidate(BLOCKS[0])
            assert kv.verify(BLOCKS[0]) is None


def _session(model: Model, kv: KvPool) -> Session:
    return Session(model, kv, n_threads=1, max_rows=64, max_seqs=4, max_outputs=4)


def test_handles_close_in_any_order_without_dangling(tiny: TinyModel) -> None:
    with tiny.file() as fd:
        model = Model(fd, tiny.arch, tiny.tensors)
    with kv_memory(model, 4) as kv_fd:
        kv = KvPool(model, kv_fd, 4)
    session = _session(model, kv)
    for handle in (model, kv):
        with pytest.raises(NativeError, match="open users"):
            handle.close()
    session.close()
    session.close()
    kv.close()
    model.close()
    with pytest.raises(NativeError, match="closed"):
        session.step(batch_of([(PROMPT, 0, BLOCKS)], []))
    with pytest.raises(NativeError, match="closed"):
        kv.poison(0)


def test_errors_name_the_status_and_what_was_wrong(tiny: TinyModel, session: Session) -> None:
    with pytest.raises(NativeError, match=r"TRIT_ERR_ARGUMENT: row 0: token id is 203, expected 0 to 202") as caught:
        session.step(batch_of([([203], 0, BLOCKS)], []))
    assert caught.value.status == "TRIT_ERR_ARGUMENT"
    with pytest.raises(NativeError, match="outputs, expected at most 256"):
        session.step(batch_of([(PROMPT, 0, BLOCKS)], [Output(row=0)] * 257))
    with tiny.file() as fd, pytest.raises(NativeError, match="missing"):
        Model(fd, tiny.arch, tiny.tensors[:-1])


def test_arrays_of_another_type_or_shape_never_reach_c(session: Session) -> None:
    good = batch_of([(PROMPT, 0, BLOCKS)], [Output(row=0)])

    def changed(**arrays: object) -> StepBatch:
        fields = {
            name: getattr(good, name) for name in ("token_ids", "cu_rows", "start_pos", "block_tables", "outputs")
        }
        return StepBatch(**{**fields, **arrays})

    with pytest.raises(TypeError, match="token_ids has dtype int64"):
        session.step(changed(token_ids=good.token_ids.astype(np.int64)))
    with pytest.raises(ValueError, match="cu_rows has shape"):
        session.step(changed(cu_rows=np.zeros(5, dtype=np.int32)))
    with pytest.raises(ValueError, match="not contiguous"):
        session.step(changed(token_ids=np.zeros(40, dtype=np.int32)[::2]))
    with pytest.raises(ValueError, match="logits has shape"):
        session.step(good, np.empty((2, SMALL.vocab), dtype=np.float32))
    short_mask = Sampling(mask=np.zeros(2, dtype=np.uint32))
    with pytest.raises(ValueError, match="mask has shape"):
        session.step(changed(outputs=[Output(row=0, sampling=short_mask)]))
    read_only = np.empty((1, SMALL.vocab), dtype=np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        session.step(good, read_only)


def test_a_busy_session_refuses_a_second_caller(session: Session) -> None:
    mask, ready = np.full((SMALL.vocab + 31) // 32, 0xFFFFFFFF, dtype=np.uint32), np.zeros(1, dtype=np.int32)
    waiting = batch_of([(PROMPT, 0, BLOCKS)], [Output(row=0, sampling=Sampling(mask=mask, mask_ready=ready))])
    thread = threading.Thread(target=session.step, args=(waiting,))
    thread.start()
    try:
        while not session._busy.locked():
            time.sleep(0.001)
        with pytest.raises(NativeError, match="in use by another thread"):
            session.time_linears(1, 1)
    finally:
        ready[0] = 1
        thread.join()


def test_the_machine_can_be_measured(session: Session) -> None:
    assert native.measure_read(1 << 22, n_threads=2, repeats=2) > 1e8
    assert native.measure_int8(native.best_isa(), n_threads=2, seconds=0.02) > 1e9
    assert session.time_linears(2, 2) > 0
    assert session.stats().steps == 0

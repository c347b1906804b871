"""Frames: cut anywhere they are the same, and whatever is not a frame is a ProtocolError."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    FrameReader,
    Ping,
    ProtocolError,
    SamplingParams,
    StepDone,
    StepStarted,
    StepStats,
    Submit,
    ToFront,
    TokenEvent,
    ToWorker,
    decode_to_front,
    decode_to_worker,
    encode_frame,
)

TO_WORKER: list[ToWorker] = [
    Submit(
        seq_id=1, group=1, prompt=[1] * 300, sampling=SamplingParams(seed=2**64 - 1, logit_bias={3: -1.5}), max_tokens=5
    ),
    Abort([1, 2]),
    Ping(7),
]
TO_FRONT: list[ToFront] = [
    StepStarted(1, [(1, 0, 64), (2, 9, 10)]),
    StepDone(
        step=1,
        tokens=[TokenEvent(1, 0, 5, -0.25, [(5, -0.25)], "stop")],
        cached=[(1, 16)],
        stats=StepStats(0.1, 1, 2, 3, 4, 5, 6, 7),
    ),
]


@given(st.lists(st.integers(1, 200), max_size=40))
def test_frames_cut_anywhere_are_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in TO_WORKER)
    reader, messages, at = FrameReader(), [], 0
    for cut in [*cuts, len(stream)]:
        messages += [decode_to_worker(payload) for payload in reader.feed(stream[at : at + cut])]
        at += cut
    assert messages == TO_WORKER


def test_both_directions_round_trip() -> None:
    [payloads] = [list(FrameReader().feed(b"".join(map(encode_frame, TO_FRONT))))]
    assert [decode_to_front(payload) for payload in payloads] == TO_FRONT


@given(st.binary(max_size=200))
def test_random_payloads_are_refused_or_read(payload: bytes) -> None:
    for decode in (decode_to_worker, decode_to_front):
        with contextlib.suppress(ProtocolError):
            decode(payload)


@given(st.data())
def test_damaged_frames_are_refused_or_read(data: st.DataObject) -> None:
    payload = bytearray(encode_frame(data.draw(st.sampled_from(TO_WORKER + TO_FRONT)))[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    for decode in (decode_to_worker, decode_to_front):
        with contextlib.suppress(ProtocolError):
            decode(bytes(payload))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(b"\x91" * depth + b"\xc0")


def test_a_length_past_the_limit_is_refused_before_anything_is_kept() -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        list(reader.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(msgspec.msgpack.encode(TO_FRONT[0]))
    with pytest.raises(ProtocolError):
        decode_to_front(msgspec.msgpack.encode(TO_WORKER[0]))

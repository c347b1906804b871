"""One worker process on a raw socket: what it does when its peer is gone, silent or hostile."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_runner import model_completion
from pool_harness import FAKE_WORKER

from tritserve.pool.launch import create_kv_memory, spawn
from tritserve.protocol import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Abort,
    FrameReader,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    SamplingParams,
    Start,
    StepDone,
    Submit,
    decode_to_front,
    encode_frame,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tritserve.protocol import ToFront, ToWorker


class Peer:
    """The front's side, blocking."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, model: Path) -> None:
        self.process = process
        self.sock = sock
        self._model = model
        self._frames = FrameReader()
        self._messages: list[ToFront] = []

    def send(self, *messages: ToWorker) -> None:
        self.sock.sendall(b"".join(encode_frame(message) for message in messages))

    def receive(self) -> ToFront | None:
        """Return the next message, None at the end."""
        while not self._messages:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._messages += [decode_to_front(payload) for payload in self._frames.feed(data)]
        return self._messages.pop(0)

    def start_frame(self, **fields: object) -> Start:
        settings = {
            "version": PROTOCOL_VERSION,
            "model_path": str(self._model),
            "isa": "auto",
            "num_threads": 1,
            "kv_bytes": 1 << 20,
            "max_model_len": 0,
            "max_batch_size": 4,
            "max_step_tokens": 32,
        }
        return Start(**{**settings, **fields})  # type: ignore[arg-type]

    def start(self) -> Hello:
        self.send(self.start_frame())
        hello = self.receive()
        assert isinstance(hello, Hello)
        return hello

    def ends(self) -> int:
        """Wait for the process to end; its exit code."""
        while self.receive() is not None:
            pass
        return self.process.wait(20)


@contextmanager
def worker(folder: Path, **options: object) -> Iterator[Peer]:
    model = folder / "fake.json"
    model.write_text(json.dumps(options))
    fd = create_kv_memory(1 << 20)
    process, sock = spawn(FAKE_WORKER, fd)
    sock.setblocking(True)
    sock.settimeout(30)
    try:
        with sock:
            yield Peer(process, sock, model)
    finally:
        process.kill()
        process.wait()
        os.close(fd)


def submit(seq_id: int = 1, **fields: object) -> Submit:
    given = {"prompt": [1, 2, 3], "sampling": SamplingParams(seed=1), "max_tokens": 5, **fields}
    return Submit(seq_id=seq_id, group=seq_id, **given)  # type: ignore[arg-type]


def test_it_serves_a_sequence_and_answers_pings(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        assert peer.start().vocab == 1000
        peer.send(submit(), Ping(5))
        tokens: list[int] = []
        pongs = []
        while len(tokens) < 5 or not pongs:
            message = peer.receive()
            if isinstance(message, StepDone):
                tokens += [event.token for event in message.tokens]
            elif isinstance(message, Pong):
                pongs.append(message.nonce)
        assert tokens == model_completion([1, 2, 3], 1, 5)
        assert pongs == [5]


def test_it_ends_with_its_socket_while_idle(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        peer.start()
        peer.sock.shutdown(2)
        assert peer.process.wait(20) == 0


def test_it_ends_with_its_socket_while_working(tmp_path: Path) -> None:
    with worker(tmp_path, step_seconds=0.01) as peer:
        peer.start()
        peer.send(submit(max_tokens=100_000))
        peer.receive()
        peer.sock.close()
        assert peer.process.wait(20) == 0


def test_it_leaves_the_terminals_signals_to_the_front(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        hello = peer.start()
        os.kill(hello.pid, signal.SIGINT)
        os.kill(hello.pid, signal.SIGTERM)
        peer.send(Ping(1))
        assert peer.receive() == Pong(1)


def test_it_confines_itself(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        status = Path(f"/proc/{peer.start().pid}/status").read_text()
        limits = Path(f"/proc/{peer.process.pid}/limits").read_text()
        assert "NoNewPrivs:\t1" in status
        assert [line.split()[4:6] for line in limits.splitlines() if "core file size" in line] == [["0", "0"]]
        names = os.listdir(f"/proc/{peer.process.pid}/fd")
        links = {os.readlink(f"/proc/{peer.process.pid}/fd/{name}") for name in names if int(name) > 2}
        assert {link.split(":")[0] for link in links - {"anon_inode:[eventfd]"}} <= {"socket", "/memfd"}


def test_the_servers_settings_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITSERVE_API_KEY", "sesame")
    with worker(tmp_path) as peer:
        environment = Path(f"/proc/{peer.start().pid}/environ").read_bytes()
        assert b"sesame" not in environment


_PARENT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from test_engine_worker import worker
with worker(Path({folder!r}), **{options!r}) as peer:
    peer.start()
    if {busy}:
        from test_engine_worker import submit
        peer.send(submit(max_tokens=100000))
        peer.receive()
    print(peer.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("busy", [False, True])
def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path, busy: bool) -> None:
    path = [str(Path(__file__).parent), *sys.path]
    program = _PARENT.format(path=path, folder=str(tmp_path), options={"step_seconds": 0.01 if busy else 0}, busy=busy)
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    end = os.pidfd_open(pid)
    try:
        parent.kill()
        parent.wait()
        assert select.select([end], [], [], 20)[0], "the worker is still there"
    finally:
        os.close(end)
        parent.stdin.close()
        parent.stdout.close()


def test_a_parent_that_was_gone_before_it_looked_is_noticed(tmp_path: Path) -> None:
    command = [*FAKE_WORKER, "--socket-fd", "0", "--kv-fd", "0", "--parent-pid", "1"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(submit()),
        b"\x04\0\0\0\xc1\xc1\xc1\xc1",
        (MAX_FRAME_BYTES + 1).to_bytes(4, "little"),
        b"\0\0\0\0",
    ],
)
def test_a_wrong_first_frame_ends_it(tmp_path: Path, first: bytes) -> None:
    with worker(tmp_path) as peer:
        peer.sock.sendall(first)
        assert peer.ends() == 3


def test_another_protocol_version_ends_it(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        peer.send(peer.start_frame(version=PROTOCOL_VERSION + 1))
        assert peer.ends() == 3


def test_random_bytes_end_it_and_never_anything_else(tmp_path: Path) -> None:
    rng = random.Random(5)
    for length in (1, 7, 100, 5000):
        with worker(tmp_path) as peer:
            peer.start()
            peer.sock.sendall(bytes([length % 256, 0, 0, 0]) + rng.randbytes(length))
            peer.sock.shutdown(1)
            assert peer.ends() in (0, 3)


def test_values_out_of_range_end_their_sequence_only(tmp_path: Path) -> None:
    with worker(tmp_path) as peer:
        peer.start()
        peer.send(
            submit(1, prompt=[2**40]),
            submit(2, sampling=SamplingParams(seed=2**64 - 1, top_p=float("inf"))),
            submit(3, max_tokens=-4),
            submit(4, sampling=SamplingParams(seed=-1)),
            submit(5, stop_token_ids=[-7]),
            submit(6),
            Abort([99, -1, 2**60]),
        )
        ends: dict[int, str] = {}
        while 6 not in ends:
            message = peer.receive()
            assert message is not None
            if isinstance(message, StepDone):
                ends.update({end.seq_id: end.finish for end in message.ends})
                ends.update({event.seq_id: event.finish for event in message.tokens if event.finish})
        assert ends == {1: "rejected", 2: "rejected", 3: "rejected", 4: "rejected", 5: "rejected", 6: "length"}


def test_a_frame_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        encode_frame(submit(cache_salt=bytes(MAX_FRAME_BYTES)))

"""The server's life: it answers before it is ready, drains with the listener open, and ends with 0."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from byte_front import EOS, HELLO, WORLD
from scripted_pool import ScriptedPool, say
from whole_app import sample, whole_front

from tritserve.api.serving import serve
from tritserve.cli.listener import open_listener
from tritserve.errors import RequestAborted, SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from scripted_pool import Step

    from tritserve.pool.generation import GenerationRequest, PoolStatus

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
STREAM = {**CHAT, "stream": True}


class DrainingPool(ScriptedPool):
    """Drains as the real one: refuses, waits for ``idle`` as long as it may, then ends what runs with RequestAborted."""

    def __init__(self) -> None:
        super().__init__(self._two_words)
        self.go_on = asyncio.Event()
        self.idle = asyncio.Event()
        self.drains: list[float] = []

    def _two_words(self, request: GenerationRequest) -> Sequence[Step]:
        first, *rest = say(0, [HELLO, WORLD, EOS])
        return [first, self.go_on, *rest]

    async def drain(self, timeout_seconds: float) -> None:
        self.drains.append(timeout_seconds)
        self.set_status(draining=True, ready=False)
        self.refusal = Unavailable("The server is shutting down.")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.idle.wait()
        except TimeoutError:
            for generation in self.generations:
                if not generation.is_over:
                    generation._error = RequestAborted("The server is shutting down.")
                    generation._changed.set()
            self.idle.set()


class Running:
    """A served front: its client, its pool and what became of it."""

    def __init__(self, http: httpx.AsyncClient, pool: DrainingPool, task: asyncio.Task[int], front: Any) -> None:
        self.http = http
        self.pool = pool
        self.task = task
        self.front = front
        self.ready: list[PoolStatus] = []

    async def code(self) -> int:
        async with asyncio.timeout(20):
            return await self.task


@asynccontextmanager
async def running(*, ready: bool = True, pool: DrainingPool | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Serve on a free port in this loop."""
    pool = pool or DrainingPool()
    pool.set_status(ready=ready)
    front = whole_front(pool, **settings)
    heard: list[PoolStatus] = []
    with open_listener("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(serve(front.settings, front.pool, lambda: front, listener, on_ready=heard.append))
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            await http.get("/health")
            server = Running(http, pool, task, front)
            server.ready = heard
            try:
                yield server
            finally:
                if not task.done():
                    pool.idle.set()
                    terminate()
                    await server.code()


def terminate(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


async def first_chunk(lines: AsyncIterator[str]) -> None:
    """Read until the first token is there."""
    async for line in lines:
        if "Hello" in line:
            return


async def until_draining(server: Running) -> httpx.Response:
    """Ask until /ready has heard of the signal."""
    while True:
        response = await server.http.get("/ready")
        if response.status_code != 200:
            return response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_streams_finish_while_new_work_is_refused_with_the_listener_open(
    number: signal.Signals,
) -> None:
    async with running(drain_timeout_seconds=20) as server:
        async with server.http.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.aiter_lines()
            await first_chunk(lines)
            terminate(number)
            assert (await until_draining(server)).json()["reason"].startswith("draining")
            async with httpx.AsyncClient(base_url=server.http.base_url) as newcomer:  # a connection of its own
                refused = await newcomer.post("/v1/chat/completions", json=CHAT)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert (await newcomer.get("/health")).status_code == 200
            server.pool.go_on.set()
            rest = [line async for line in lines if line]
        assert "world" in "".join(rest)
        assert rest[-1] == "data: [DONE]"
        server.pool.idle.set()
        assert await server.code() == 0
        assert server.pool.drains[0] == 20
        with pytest.raises(httpx.ConnectError):
            await server.http.get("/health")


async def test_streams_past_the_drain_limit_end_with_an_error_and_the_exit_code_is_0() -> None:
    async with running(drain_timeout_seconds=0.1) as server:
        async with server.http.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.aiter_lines()
            await first_chunk(lines)
            terminate()
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "request_aborted"
        assert await server.code() == 0


async def test_second_signal_ends_what_still_runs() -> None:
    async with running(drain_timeout_seconds=1000) as server:
        async with server.http.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.aiter_lines()
            await first_chunk(lines)
            terminate()
            await until_draining(server)
            terminate()
            assert '"error"' in [line async for line in lines if line][-1]
        assert await server.code() == 0
        assert server.pool.drains[:2] == [1000, 0]


async def test_answers_while_loading_and_says_once_when_it_is_ready() -> None:
    async with running(ready=False) as server:
        server.pool.refusal = Unavailable("No worker is ready: the model is being loaded.")
        assert (await server.http.get("/health")).status_code == 200
        assert (await server.http.get("/ready")).json()["reason"].startswith("loading")
        refused = await server.http.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert server.ready == []
        server.pool.set_status(ready=True)
        server.pool.refusal = None
        while not server.ready:
            await server.http.get("/health")
        assert len(server.ready) == 1


async def test_signal_while_loading_ends_with_0() -> None:
    async with running(ready=False) as server:
        server.pool.idle.set()
        terminate()
        assert await server.code() == 0


async def test_pool_that_failed_for_good_ends_the_server_with_the_reason() -> None:
    async with running(ready=False) as server:
        server.pool.idle.set()
        server.pool.set_status(failed="the header is damaged")
        with pytest.raises(Unavailable, match="the header is damaged"):
            await server.code()


async def until(condition: Any, server: Running) -> None:
    """Let the server work until something holds."""
    while not condition():
        await server.http.get("/health")


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_client_that_leaves_stops_its_generation(body: dict[str, Any]) -> None:
    async with running() as server:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http.base_url.port)
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        await server.pool.submitted.wait()
        if body.get("stream"):
            await reader.readuntil(b"Hello")
        writer.close()
        await writer.wait_closed()
        await until(lambda: server.pool.generations[0].was_aborted, server)
        labels = {"endpoint": "chat", "outcome": "cancelled"}
        await until(lambda: sample(server.front, "tritserve_requests_total", **labels) == 1, server)


async def test_answers_say_nothing_about_the_server_software() -> None:
    async with running() as server:
        headers = (await server.http.get("/health")).headers
    assert "server" not in headers
    assert "date" in headers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


def has_openssl() -> bool:
    try:
        return subprocess.run(["openssl", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_openssl(), reason="no openssl to make a certificate")
async def test_serves_https_with_certificate_files_behind_the_same_edge(certificate: tuple[Path, Path]) -> None:
    pool = DrainingPool()
    front = whole_front(pool, tls_certfile=certificate[0], tls_keyfile=certificate[1], max_body_bytes=2048)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with open_listener("127.0.0.1", 0) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(serve(front.settings, front.pool, lambda: front, listener, on_ready=lambda _: None))
        async with httpx.AsyncClient(base_url=url, verify=context) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.post("/v1/completions", content=b"x" * 3000)).status_code == 413
        pool.idle.set()
        terminate()
        assert await task == 0


async def test_unusable_certificate_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    front = whole_front(DrainingPool(), tls_certfile=tmp_path / "cert.pem", tls_keyfile=tmp_path / "absent.pem")
    front.pool.idle.set()  # type: ignore[attr-defined]
    with socket.socket() as listener, pytest.raises(SettingsError, match=r"cert\.pem"):
        await serve(front.settings, front.pool, lambda: front, listener, on_ready=lambda _: None)

"""`tritserve chat` against a small scripted server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tritserve.cli.chat import chat
from tritserve.errors import ServerError


class Scripted(BaseHTTPRequestHandler):
    """Answers /v1/models, and chat with the frames of ``frames``; remembers what was asked."""

    frames: ClassVar[list[str]] = []
    asked: ClassVar[list[dict[str, object]]] = []
    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self._send(200, "application/json", json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        Scripted.keys.append(self.headers["Authorization"])
        Scripted.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if not self.frames:
            self._send(429, "application/json", json.dumps({"error": {"message": "the queue is full"}}))
        else:
            self._send(200, "text/event-stream", "".join(f"{frame}\n\n" for frame in self.frames))

    def _send(self, status: int, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("TRITSERVE_API_KEY", raising=False)
    Scripted.frames, Scripted.asked, Scripted.keys = [], [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def delta(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


def test_one_message_streams_the_answer(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Scripted.frames = [delta(""), ": keep-alive", delta("once "), delta("upon"), "data: [DONE]"]
    chat("hello", url=url, system="be brief", max_tokens=5, temperature=None, seed=3, key_file=None)
    assert capsys.readouterr().out == "once upon\n"
    assert Scripted.asked == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
            "stream": True,
            "max_completion_tokens": 5,
            "seed": 3,
        }
    ]


def test_key_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.frames = [delta("x"), "data: [DONE]"]
    monkeypatch.setenv("TRITSERVE_API_KEY", "k1")
    chat("hello", url=f"{url}/v1/")  # as OpenAI clients are given it
    assert Scripted.keys == ["Bearer k1"]


def test_refusal_and_broken_stream_are_one_clear_line(url: str) -> None:
    with pytest.raises(ServerError, match="answered 429: the queue is full"):
        chat("hello", url=url)
    Scripted.frames = [delta("x"), 'data: {"error": {"message": "the worker died"}}']
    with pytest.raises(ServerError, match="the worker died"):
        chat("hello", url=url)


def test_no_server_says_how_to_start_one() -> None:
    with pytest.raises(ServerError, match="Start one with: tritserve"):
        chat("hello", url="http://127.0.0.1:9")

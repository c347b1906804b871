"""A small stand-in for the Hugging Face hub on loopback: one repository, the calls that a snapshot download makes, and a log of them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as ``repo`` at one commit. ``fetched`` lists the names whose bytes went out, ``ranges`` from where if not
    from the start. The first answer with a file larger than ``cut_after`` bytes is cut off there."""

    daemon_threads = True

    def __init__(self, folder: Path, repo: str, cut_after: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.repo = repo
        self.cut_after = cut_after
        self.fetched: list[str] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def names(self) -> list[str]:
        """Every file of the repository."""
        return sorted(path.name for path in self.folder.iterdir())


@contextmanager
def running_hub(folder: Path, repo: str, cut_after: int | None = None) -> Iterator[Hub]:
    """Yield a hub that serves until the block ends."""
    with Hub(folder, repo, cut_after) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        repo = self.server.repo
        if path in (
            f"/api/models/{repo}",
            f"/api/models/{repo}/revision/main",
            f"/api/models/{repo}/revision/{COMMIT}",
        ):
            self._json(
                {
                    "id": repo,
                    "modelId": repo,
                    "sha": COMMIT,
                    "siblings": [self._sibling(n) for n in self.server.names()],
                }
            )
        elif re.fullmatch(rf"/api/models/{repo}/tree/\w+/?", path):
            self._json([self._tree_entry(name) for name in self.server.names()])
        elif match := re.fullmatch(rf"/{repo}/resolve/\w+/([\w.-]+)", path):
            self._file(match[1])
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _sibling(self, name: str) -> dict[str, object]:
        return {"rfilename": name, "size": (self.server.folder / name).stat().st_size, "blobId": self._etag(name)}

    def _tree_entry(self, name: str) -> dict[str, object]:
        size = (self.server.folder / name).stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": self._etag(name)}

    def _etag(self, name: str) -> str:
        return hashlib.sha1((self.server.folder / name).read_bytes()).hexdigest()

    def _file(self, name: str) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        start = 0
        if wanted := self.headers["Range"]:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.server.ranges.append(f"{name} from {start}")
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{self._etag(name)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.fetched.append(name)
        cut = self.server.cut_after
        if cut is not None and len(content) > cut:
            self.server.cut_after = None
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

"""A stand-in for the Hugging Face Hub on localhost: the requests of a download, and no more."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0a1b2c3d" * 5


class Hub:
    """Repositories by id, as folders, and what goes wrong with them.

    Attributes:
      repositories: the folder of each.
      refused: status and X-Error-Code of each that may not be read.
      cut: files of which the next answer breaks off in the middle.
      requests: method, path and Range header of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.cut: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers as long as the block lasts."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.split("?")[0].strip("/")
        api = path.startswith("api/models/")
        words = path.removeprefix("api/models/").split("/")
        name = "/".join(words[:2])
        if name in self.hub.refused:
            status, code = self.hub.refused[name]
            return self.answer(status, b"{}", {"X-Error-Code": code})
        if name not in self.hub.repositories:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        folder = self.hub.repositories[name]
        if api:
            return self.answer(200, json.dumps(self.info(name, folder, words)).encode())
        file = folder / "/".join(words[4:])
        if not file.is_file():
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self.file(file)

    do_HEAD = do_GET

    def info(self, name: str, folder: Path, words: list[str]):
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        if words[2:3] == ["tree"]:
            return [
                {"type": "file", "path": n, "oid": "0" * 40, "size": (folder / n).stat().st_size}
                for n in names
            ]
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}

    def file(self, file: Path) -> None:
        data = file.read_bytes()
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        status, wanted = 200, self.headers.get("Range")
        if wanted:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[first:]
        if self.command == "GET" and file.name in self.hub.cut:
            self.hub.cut.discard(file.name)
            self.answer(status, data, headers, send=len(data) // 2)
            self.close_connection = True
            return
        self.answer(status, data, headers)

    def answer(self, status: int, data: bytes, headers=None, send: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:send])
            self.wfile.flush()

    def log_message(self, *args) -> None:
        pass

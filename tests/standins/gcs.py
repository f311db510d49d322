"""A stand-in for Google Cloud Storage on localhost: the JSON API as gcsfs and TensorStore use it.

An object appears whole or not at all, nothing can be renamed, copied or appended to, and there are
no folders, only names with slashes in them.
"""

import http.server
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.standins.gcs_store import Store, Stored

_OBJECT = re.compile(
    r"(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)(?P<list>/o(?:/(?P<name>.+))?)?"
)
_UPLOAD = re.compile(r"(?:/resumable)?/upload/storage/v1/b/(?P<bucket>[^/]+)/o")


@contextmanager
def serving() -> Iterator[Store]:
    """A store that answers as long as the block lasts."""
    store = Store()

    class Handler(_Handler):
        pass

    Handler.store = store
    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        if store.trap:
            store.trap.opened.set()
        server.shutdown()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up on what they no longer want, and some are killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    """A request that is answered with a status of 400 or more."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # head and body go together: in two pieces they would wait for each other
    disable_nagle_algorithm = True

    def answer_request(self) -> None:
        url = urlsplit(self.path)
        self.store.requests.append((self.command, unquote(url.path)))
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self.chunks()
        try:
            self.count_changes()
            if upload := _UPLOAD.fullmatch(url.path):
                self.check_bucket(unquote(upload["bucket"]))
                self.upload(unquote(upload["bucket"]), query, body)
            elif match := _OBJECT.fullmatch(url.path):
                self.about(match, query)
            else:
                raise _Refused(404, f"no such path: {url.path}")
        except _Refused as refused:
            error = {"error": {"code": refused.status, "message": str(refused)}}
            self.answer(refused.status, json.dumps(error).encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer_request

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def count_changes(self) -> None:
        with self.store.lock:
            left = self.store.changes_left
            if left is None:
                return
            if left == 0:
                raise _Refused(403, "the client is dead")
            self.store.changes_left = left - (self.command in ("POST", "DELETE"))

    def check_bucket(self, bucket: str) -> None:
        if status := self.store.refused.get(bucket):
            raise _Refused(status, "caller does not have access to the bucket")
        if bucket not in self.store.buckets:
            raise _Refused(404, "The specified bucket does not exist.")

    def about(self, match: re.Match[str], query: dict[str, str]) -> None:
        """A bucket, a listing, or one object."""
        bucket = unquote(match["bucket"])
        self.check_bucket(bucket)
        if self.command not in ("GET", "HEAD", "DELETE"):
            # Whatever else there is, rename, copy and compose included.
            raise _Refused(405, f"{self.command} {match[0]} is not allowed here")
        if match["name"]:
            self.one(bucket, unquote(match["name"]), query)
        elif self.command == "DELETE":
            raise _Refused(405, "buckets are not deleted here")
        elif match["list"]:
            self.json(self.listing(bucket, query))
        elif not self.store.visible:
            raise _Refused(403, "caller does not have storage.buckets.get access to the bucket")
        else:
            self.json({"kind": "storage#bucket", "id": bucket, "name": bucket})

    def one(self, bucket: str, name: str, query: dict[str, str]) -> None:
        with self.store.lock:
            stored = self.store.buckets[bucket].get(name)
            _check_generation(stored, query)
            if stored is None:
                raise _Refused(404, f"No such object: {bucket}/{name}")
            if self.command == "DELETE":
                del self.store.buckets[bucket][name]
        if self.command == "DELETE":
            self.answer(204, b"")
        elif query.get("alt") == "media":
            self.media(stored)
        else:
            self.json(_resource(bucket, name, stored))

    def media(self, stored: Stored) -> None:
        headers = {"x-goog-generation": str(stored.generation), "Accept-Ranges": "bytes"}
        data, wanted = (
            stored.data,
            re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")),
        )
        if wanted is None:
            return self.answer(200, data, headers)
        first, last = wanted[1], wanted[2]
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            raise _Refused(416, "The requested range cannot be satisfied: not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.answer(206, data[start:stop], headers)

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        with self.store.lock:
            objects = dict(self.store.buckets[bucket])
        found: dict[str, Stored | None] = {}
        for name in sorted(objects):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            found[prefix + head + cut if cut else name] = None if cut else objects[name]
        page = min(self.store.page, int(query.get("maxResults", self.store.page)))
        names = sorted(n for n in found if n > query.get("pageToken", ""))
        shown = {name: found[name] for name in names[:page]}
        result: dict[str, Any] = {"kind": "storage#objects"}
        items = [_resource(bucket, n, stored) for n, stored in shown.items() if stored]
        prefixes = [name for name, stored in shown.items() if stored is None]
        result |= {"items": items} if items else {}
        result |= {"prefixes": prefixes} if prefixes else {}
        return result | ({"nextPageToken": names[page - 1]} if len(names) > page else {})

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        """The three ways to upload: in one piece, with its metadata, in several pieces."""
        kind, session = query.get("uploadType"), query.get("upload_id")
        if session is not None:
            self.piece(session, body)
        elif kind == "media":
            self.complete(bucket, query["name"], query, body)
        elif kind == "multipart":
            about, data = _parts(self.headers["Content-Type"], body)
            self.complete(bucket, about.get("name") or query["name"], query, data)
        elif kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            session = str(next(self.store.generations))
            self.store.uploads[session] = (bucket, name, query, bytearray())
            self.answer(200, b"", {"Location": f"{self.store.url}{self.path}&upload_id={session}"})
        else:
            raise _Refused(400, f"no such kind of upload: {kind}")

    def piece(self, session: str, body: bytes) -> None:
        if self.command == "DELETE":
            self.store.uploads.pop(session, None)
            return self.answer(499, b"")
        bucket, name, query, received = self.store.uploads[session]
        received += body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total == "*":
            return self.answer(308, b"", {"Range": f"bytes=0-{len(received) - 1}"})
        if int(total) != len(received):
            raise _Refused(400, f"{len(received)} bytes came of {total}")
        del self.store.uploads[session]
        self.complete(bucket, name, query, bytes(received))

    def complete(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> None:
        trap = self.store.trap
        if trap and trap.pattern.fullmatch(name) and not trap.opened.is_set():
            trap.sprung.set()
            trap.opened.wait(60)
            raise _Refused(503, "the upload was held")
        with self.store.lock:
            objects = self.store.buckets[bucket]
            _check_generation(objects.get(name), query)
            objects[name] = stored = Stored(data, next(self.store.generations))
        self.json(_resource(bucket, name, stored))

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json; charset=UTF-8"} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _check_generation(stored: Stored | None, query: dict[str, str]) -> None:
    """Conditions on the version that is there; 0 is that of an object that is not."""
    found = stored.generation if stored else 0
    if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != found:
        raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == found:
        raise _Refused(304 if stored else 412, "not modified")
    if stored and "generation" in query and int(query["generation"]) != found:
        raise _Refused(404, "no such generation")


def _resource(bucket: str, name: str, stored: Stored) -> dict[str, Any]:
    """The JSON that describes an object."""
    updated = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stored.updated))
    moment = f"{updated}.{int(stored.updated % 1 * 1000):03d}Z"
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "name": name,
        "bucket": bucket,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.data)),
        "timeCreated": moment,
        "updated": moment,
        "contentType": "application/octet-stream",
    }


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Metadata and data of a multipart upload."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    assert boundary is not None
    line = b"--" + boundary[1].encode()
    _, about, rest = body.split(line, 2)
    about = about.lstrip(b"\r\n")
    head, _, data = rest.lstrip(b"\r\n").partition(b"\n\n")
    message = BytesParser().parsebytes(about)
    return json.loads(message.get_payload()), data[: data.rindex(b"\n" + line)]

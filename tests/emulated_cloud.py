"""Cloud Storage on this machine: gcp-storage-emulator, in memory, with what it lacks of what our clients ask for.

    X-Goog-Generation, ifGenerationMatch    TensorStore reads a generation and writes only over that one
    startOffset, endOffset                  TensorStore lists a folder by them
    moveTo                                  gcsfs renames by it
    refusals                                buckets "private" (401), "forbidden" (403), "read-only" (403 for a write)

It can also call a function as an object is about to be written: that is how a test kills a process at a chosen moment.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import logging
import re
import sys
import threading
import urllib.parse
from pathlib import Path

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

BUCKETS = ("bucket", "private", "forbidden", "read-only")
WORDS = {401: "Anonymous caller does not have", 403: "tester@example.com does not have", 404: "The specified bucket"}
_API = re.compile(r"(?P<upload>/upload)?(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)(?:/o(?:/(?P<object>[^/]+))?)?")


class Handler(emulator.RequestHandler):
    """Answers what the emulator does not know, and hands it the rest, one request at a time."""

    _generation = ""

    def __getattribute__(self, name):
        if name.startswith("do_"):
            return functools.partial(self._serve, name.removeprefix("do_"))
        return super().__getattribute__(name)

    def _serve(self, method):
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        found = _API.match(url.path)
        bucket = found["bucket"] if found else ""
        name = urllib.parse.unquote(found["object"] or query.get("name", "")) if found else ""
        move = re.search(r"/o/([^/]+)/moveTo/o/([^/]+)$", url.path)
        writes = method != "GET"
        if writes and name and not self._is_start_of_upload(method, query):
            self.server.about_to_write(urllib.parse.unquote(move[2]) if move else name)
        with self.server.lock:
            if status := self._refused(bucket, name, writes, query):
                self._answer(status, {"error": {"code": status, "message": f"{WORDS.get(status, 'No')} access."}})
            elif move:
                self._move(bucket, *map(urllib.parse.unquote, move.groups()))
            elif "startOffset" in query or "endOffset" in query:
                self._list(bucket, query)
            else:
                self._generation = self._generation_of(bucket, name) if not writes else ""
                emulator.Router(self).handle(method)

    def _is_start_of_upload(self, method, query):
        return method == "POST" and query.get("uploadType") == "resumable" and "upload_id" not in query

    def _refused(self, bucket, name, writes, query):
        if bucket == "private" and "Authorization" not in self.headers:
            return 401
        if bucket == "forbidden" or (bucket == "read-only" and writes):
            return 403
        if bucket and bucket not in self.storage.buckets:
            return 404
        wanted = query.get("ifGenerationMatch")
        return 412 if wanted is not None and wanted != self._generation_of(bucket, name) else None

    def _generation_of(self, bucket, name):
        try:
            return self.storage.get_file_obj(bucket, name)["generation"]
        except NotFound:
            return "0"

    def _list(self, bucket, query):
        start, end, prefix = query.get("startOffset", ""), query.get("endOffset"), query.get("prefix", "")
        found, _ = self.storage.get_file_list(bucket, prefix)
        items = [item for item in found if item["name"] >= start and (end is None or item["name"] < end)]
        self._answer(200, {"kind": "storage#objects", "items": items})

    def _move(self, bucket, source, target):
        try:
            moved = objects._copy("", self.storage, bucket, source, bucket, target)
        except NotFound:
            self._answer(404, {"error": {"code": 404, "message": f"No such object: {bucket}/{source}"}})
        else:
            self.storage.delete_file(bucket, source)
            self._answer(200, moved)

    def _answer(self, status, content):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        if self._generation:
            self.send_header("X-Goog-Generation", self._generation)
        super().end_headers()


class CloudStorage(http.server.ThreadingHTTPServer):
    """The server, in threads of this process.

    `about_to_write` is called with the name of an object before it is written, renamed to or deleted; nothing of that
    happens if it raises a ConnectionError.
    """

    request_queue_size = 128  # TensorStore opens dozens of connections at once

    def __init__(self):
        self.storage = Storage(use_memory_fs=True)
        for name in BUCKETS:
            buckets.create_bucket(name, self.storage)
        self.lock = threading.RLock()
        self.about_to_write = lambda name: None
        super().__init__(("localhost", 0), functools.partial(Handler, self.storage))

    def handle_error(self, request, client_address):
        """A client that goes before it has its answer, or is killed, is nothing to report; all else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def environment(self):
        """Sends every client here, without credentials of the machine that runs the tests."""
        url = f"http://localhost:{self.server_address[1]}"
        nowhere = {"CLOUDSDK_CONFIG": "/nonexistent", "GCE_METADATA_ROOT": "nowhere.invalid", "NO_GCE_CHECK": "true"}
        return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, **nowhere}

    def put(self, name, content):
        """Writes an object of "bucket"."""
        resource = objects._make_object_resource("", "bucket", name, "application/octet-stream", str(len(content)))
        with self.lock:
            self.storage.create_file("bucket", name, content, objects._checksums(content, resource))

    def get(self, name):
        """An object of "bucket"."""
        with self.lock:
            return self.storage.get_file("bucket", name)

    def names(self, prefix=""):
        """The objects of "bucket"."""
        with self.lock:
            return sorted(name for name in self.storage.objects.get("bucket", {}) if name.startswith(prefix))

    def upload(self, folder, prefix):
        """Puts a local folder into "bucket"."""
        for path in Path(folder).rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def download(self, prefix, folder):
        """Writes what is in "bucket" into a local folder."""
        for name in self.names(f"{prefix}/"):
            path = Path(folder, name.removeprefix(f"{prefix}/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(name))
        return Path(folder)


@contextlib.contextmanager
def serving():
    """Starts it, and stops it."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    with CloudStorage() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()

"""A folder served as a bucket of Google Cloud Storage, for TensorStore's own client and for epath.

As in a bucket, an object appears whole or not at all, nothing is renamed or appended to, and there
are no folders, only names with slashes. The bucket outlives the processes that write to it.
"""

import contextlib
import fnmatch
import http.server
import io
import json
import os
import shutil
import threading
import urllib.parse
from pathlib import Path


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads, lists, writes and deletes objects of any bucket, from the server's folder."""

    protocol_version = "HTTP/1.1"

    def _object(self):
        """The file of /storage/v1/b/BUCKET/o/OBJECT, whose name is quoted; None for the bucket."""
        url = urllib.parse.urlparse(self.path)
        name = url.path.split("/o/", 1)[1] if "/o/" in url.path else None
        query = dict(urllib.parse.parse_qsl(url.query))
        return None if name is None else self.server.root / urllib.parse.unquote(name), query

    def do_GET(self):
        path, query = self._object()
        root = self.server.root
        if path is None:
            names = [name for name in _names(root) if name.startswith(query.get("prefix", ""))]
            if "startOffset" in query:
                names = [name for name in names if name >= query["startOffset"]]
            if "endOffset" in query:
                names = [name for name in names if name < query["endOffset"]]
            items = [{"name": name, "size": "1"} for name in names]
            return self._answer(200, json.dumps({"items": items}).encode())
        if not path.is_file():
            return self._answer(404, b"{}")
        data = path.read_bytes()
        span = self.headers.get("Range")
        if span is None:
            return self._answer(200, data, {"x-goog-generation": _generation(path)})
        first, _, last = span.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(data) - int(last)
        stop = min(int(last) + 1 if first and last else len(data), len(data))
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        extra["x-goog-generation"] = _generation(path)
        return self._answer(206, data[start:stop], extra)

    def do_POST(self):
        _, query = self._object()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.server.root / query["name"]
        with _WRITING:
            if self._stale(path, query):
                return self._answer(412, b"{}")
            _put(path, data)
            written = {"name": query["name"], "generation": _generation(path), "size": len(data)}
        return self._answer(200, json.dumps(written).encode())

    def do_DELETE(self):
        path, query = self._object()
        with _WRITING:
            if self._stale(path, query):
                return self._answer(412, b"{}")
            found = path.is_file()
            if found:
                _delete(path)
        return self._answer(204 if found else 404, b"")

    def _stale(self, path, query):
        wanted = query.get("ifGenerationMatch")
        return wanted is not None and wanted != _generation(path)

    def _answer(self, status, body, extra=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


_WRITING = threading.Lock()
# Called before every change of a bucket, with what changes and the object's path.
before_change = [lambda what, path: None]


def _names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _generation(path):
    """A number that is another one whenever the object is."""
    return str(path.stat().st_mtime_ns) if path.is_file() else "0"


def _put(path, data):
    before_change[0]("write", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Outside of the bucket, which a kill leaves without it.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.put")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _delete(path):
    before_change[0]("delete", path)
    path.unlink()


@contextlib.contextmanager
def serve(root: Path):
    """Yields the environment in which gs:// reads from `root`, whatever the bucket is called."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.root = root
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
            "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
            "NO_GCE_CHECK": "true",
        }
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def mounted(root: Path):
    """A block in which gs:// is the folder `root`, for this process's TensorStore and epath."""
    from etils.epath import gpath

    original, backend = gpath._GPath._backend, _Backend(root)
    local = gpath.backend_lib.os_backend

    def choose(path):
        return backend if path._uri_scheme == "gs" else local

    with serve(root) as env:
        kept = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        gpath._GPath._backend = property(choose)
        try:
            yield
        finally:
            gpath._GPath._backend = original
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class _Upload(io.BytesIO):
    """What becomes an object when it is closed."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def close(self):
        if not self.closed:
            with _WRITING:
                _put(self._path, self.getvalue())
        super().close()


class _Backend:
    """epath's view of the bucket."""

    def __init__(self, root):
        self.root = root

    def _path(self, path):
        # gs://BUCKET/NAME
        return self.root / "/".join(os.fspath(path).split("/")[3:])

    def open(self, path, mode):
        if mode[0] == "r":
            file = open(self._path(path), "rb")
        elif mode[0] == "w":
            file = _Upload(self._path(path))
        else:
            raise io.UnsupportedOperation("an object cannot be appended to")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def exists(self, path):
        return self._path(path).is_file() or self.isdir(path)

    def isdir(self, path):
        folder = self._path(path)
        return folder.is_dir() and any(p.is_file() for p in folder.rglob("*"))

    def listdir(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        shown = self._path(path).iterdir()
        return sorted(
            p.name for p in shown if p.is_file() or any(f.is_file() for f in p.rglob("*"))
        )

    def glob(self, path):
        folder, _, pattern = os.fspath(path).rpartition("/")
        if not self.isdir(folder):
            return []
        return [
            f"{folder}/{name}" for name in self.listdir(folder) if fnmatch.fnmatch(name, pattern)
        ]

    def walk(self, top, *, top_down=True, on_error=None):
        names = self.listdir(top)
        folders = [name for name in names if self.isdir(f"{top}/{name}")]
        here = (top, folders, [name for name in names if name not in folders])
        if top_down:
            yield here
        for name in folders:
            yield from self.walk(f"{top}/{name}", top_down=top_down, on_error=on_error)
        if not top_down:
            yield here

    def makedirs(self, path, *, exist_ok=False, mode=None):
        pass

    mkdir = makedirs

    def rmtree(self, path):
        folder = self._path(path)
        if not self.isdir(path):
            raise FileNotFoundError(path)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                _delete(file)
        shutil.rmtree(folder)

    def remove(self, path):
        _delete(self._path(path))

    def rename(self, path, target):
        raise OSError("a bucket cannot rename")

    replace = rename

    def copy(self, path, target, overwrite):
        _put(self._path(target), self._path(path).read_bytes())

    def stat(self, path):
        from etils.epath import stat_utils

        found = self._path(path).stat()
        return stat_utils.StatResult(
            is_directory=self.isdir(path),
            length=found.st_size,
            mtime=int(found.st_mtime),
            owner=None,
            group=None,
            mode=None,
        )

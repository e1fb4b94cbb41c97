"""A folder served as a public bucket of Google Cloud Storage, for TensorStore's own client."""

import contextlib
import http.server
import json
import threading
import urllib.parse
from pathlib import Path


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads and lists objects of any bucket, from the server's folder."""

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        # /storage/v1/b/BUCKET/o[/OBJECT], the object's name quoted.
        name = url.path.split("/o/", 1)[1] if "/o/" in url.path else None
        root = self.server.root
        if name is None:
            files = (path for path in sorted(root.rglob("*")) if path.is_file())
            names = [str(path.relative_to(root)) for path in files]
            names = [name for name in names if name.startswith(query.get("prefix", ""))]
            if "startOffset" in query:
                names = [name for name in names if name >= query["startOffset"]]
            if "endOffset" in query:
                names = [name for name in names if name < query["endOffset"]]
            items = [{"name": name, "size": "1"} for name in names]
            return self._answer(200, json.dumps({"items": items}).encode())
        path = root / urllib.parse.unquote(name)
        if not path.is_file():
            return self._answer(404, b"{}")
        data = path.read_bytes()
        span = self.headers.get("Range")
        if span is None:
            return self._answer(200, data)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(data) - int(last)
        stop = min(int(last) + 1 if first and last else len(data), len(data))
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return self._answer(206, data[start:stop], extra)

    def _answer(self, status, body, extra=None):
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "x-goog-generation": "1", **(extra or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(root: Path):
    """Yields the environment in which gs:// reads from `root`, whatever the bucket is called."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
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

"""A Hugging Face Hub on this machine: what `kernels` and `huggingface_hub` ask of one kernel repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def fake_hub(repo: str, folder: Path, revisions: dict[str, str], *, is_trusted: bool = True) -> Iterator[str]:
    """Serve `folder` as the repository ORG/NAME and yield the endpoint; `revisions` are names to commits."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            if path == f"/api/organizations/{repo.partition('/')[0]}/overview":
                self._json({"name": "org", "fullname": "Org", "trustedKernelPublisher": is_trusted})
                return
            for start, serve in (
                (f"/api/kernels/{repo}/tree/", self._tree),
                (f"/api/kernels/{repo}/revision/", self._revision),
                (f"/kernels/{repo}/resolve/", self._resolve),
            ):
                if path.startswith(start):
                    revision, _, rest = path.removeprefix(start).partition("/")
                    commit = revisions.get(revision, revision if revision in revisions.values() else "")
                    if commit:
                        serve(commit, rest)
                    else:
                        self._fail("RevisionNotFound", f"Invalid rev id: {revision}")
                    return
            self._fail("RepoNotFound", "Repository not found")

        def _tree(self, commit: str, rest: str) -> None:
            is_deep = "recursive=true" in self.path.lower()
            self._json([self._entry(path) for path in _paths(folder / rest, "**/*" if is_deep else "*")])

        def _entry(self, path: Path) -> dict[str, Any]:
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                return {"type": "directory", "path": name, "oid": "0" * 40}
            oid = hashlib.sha1(path.read_bytes()).hexdigest()
            return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

        def _revision(self, commit: str, rest: str) -> None:
            files = [path for path in _paths(folder, "**/*") if path.is_file()]
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            self._json({"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []})

        def _resolve(self, commit: str, rest: str) -> None:
            file = folder / rest
            if not file.is_file():
                self._fail("EntryNotFound", "Entry not found")
                return
            self._send(200, file.read_bytes(), {"X-Repo-Commit": commit})

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _fail(self, code: str, message: str) -> None:
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": message})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            etag = hashlib.sha256(body).hexdigest()
            for name, value in {"ETag": f'"{etag}"', "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _paths(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if "__pycache__" not in path.parts)

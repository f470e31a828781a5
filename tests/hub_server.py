"""A small server that speaks the parts of the hub's HTTP API that huggingface_hub uses, for tests without a network.

Info of models and data sets (named `datasets/owner/name`), tree, resolve (redirects, ETag, Range), repository creation,
upload of small and of large files, commit.
Faults are set on a repository: `gate`, `cuts`, `gone`, `moved_to`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = 1000
"""Bytes from which a file is stored apart, behind a redirect."""


@dataclass
class Repository:
    """A repository with its files, and the faults it shows.

    Attributes:
        gate: None, or the status (401, 403) of a gated repository.
        cuts: how often the connection is cut while a large file is sent.
        cut_after: how many bytes of it are sent before.
        gone: files that the tree lists and that cannot be downloaded.
        moved_to: None, or the new id of a renamed repository.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    visibility: str = "public"
    gate: int | None = None
    cuts: int = 0
    cut_after: int = 0
    gone: frozenset[str] = frozenset()
    moved_to: str | None = None

    @property
    def commit(self) -> str:
        """A hash of all files."""
        listed = b"".join(name.encode() + data for name, data in sorted(self.files.items()))
        return hashlib.sha1(listed).hexdigest()


class HubServer(ThreadingHTTPServer):
    """The server; `requests` lists method, path and Range of all requests so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        """The value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The same server as another host: large files lie elsewhere, and no token is sent there."""
        return f"http://localhost:{self.server_address[1]}/cdn"

    def put(self, name: str, folder: Path | None = None, **files: bytes) -> Repository:
        """Add a repository with the files of a folder, or with `files` by name."""
        found = dict(files)
        if folder is not None:
            paths = (path for path in folder.rglob("*") if path.is_file())
            found |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.repositories[name] = Repository(found)
        return self.repositories[name]


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Run a server in a thread."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def direct(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Direct huggingface_hub to a server and a cache, as the environment variables do at the start of a process."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        for pattern, method in _ROUTES.items():
            if found := re.fullmatch(pattern, path):
                method(self, *found.groups())
                return
        self._refuse(404, "EntryNotFound", f"no such route: {path}")

    def _repository(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif repository.moved_to is not None:
            self._send(307, {"Location": self.path.replace(name, repository.moved_to)})
        elif repository.gate is not None:
            self._refuse(repository.gate, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repository
        return None

    def info(self, name: str, _: str | None = None) -> None:
        if repository := self._repository(name):
            files = [{"rfilename": path} for path in repository.files]
            private = repository.visibility == "private"
            self._json({"id": name, "sha": repository.commit, "private": private, "gated": False, "siblings": files})

    def tree(self, name: str, _: str) -> None:
        if repository := self._repository(name):
            self._json([_entry(path, data) for path, data in repository.files.items()])

    def resolve(self, name: str, _: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if path not in repository.files or path in repository.gone:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = repository.files[path]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_oid(data)}"', "Accept-Ranges": "bytes"}
        if len(data) < LARGE:
            self._send(200, headers, data)
            return
        sha = hashlib.sha256(data).hexdigest()
        self.server.blobs[sha] = data
        headers |= {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(len(data))}
        self._send(302, headers | {"Location": f"{self.server.cdn}/{name}/{sha}"})

    def blob(self, name: str, sha: str) -> None:
        data, asked = self.server.blobs[sha], self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        headers = {"ETag": f'"{sha}"', "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        repository = self.server.repositories[name]
        cut = repository.cuts > 0
        repository.cuts -= cut
        self._send(206 if asked else 200, headers, data[start:], repository.cut_after if cut else None)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.headers.get("Authorization"):
            self._refuse(401, "", "Invalid username or password.")
        elif name in self.server.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409)
        else:
            self.server.put(name).visibility = asked.get("visibility", "public")
            self._json({"url": f"{self.server.url}/{name}", "id": name})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, name: str) -> None:
        if self._repository(name):
            files = json.loads(self.body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                for f in files
            ]
            self._json({"files": modes})

    def batch(self, _: str) -> None:
        asked = json.loads(self.body)["objects"]
        objects = [{**o, "actions": {"upload": {"href": f"{self.server.url}/upload/{o['oid']}"}}} for o in asked]
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, sha: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == sha
        self.server.blobs[sha] = self.body
        self._send(200, {})

    def commit(self, name: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.server.url}/{name}/commit/{repository.commit}"
        self._json({"success": True, "commitOid": repository.commit, "commitUrl": url})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _refuse(self, status: int, code: str, text: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": text, "Content-Type": "application/json"}
        self._send(status, headers, json.dumps({"error": text}).encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


_ROUTES = {
    r"/api/models/([^/]+/[^/]+)": _Handler.info,
    r"/api/models/([^/]+/[^/]+)/revision/(.+)": _Handler.info,
    r"/api/models/([^/]+/[^/]+)/tree/(.+)": _Handler.tree,
    r"/api/(datasets/[^/]+/[^/]+)": _Handler.info,
    r"/api/(datasets/[^/]+/[^/]+)/revision/(.+)": _Handler.info,
    r"/api/(datasets/[^/]+/[^/]+)/tree/(.+)": _Handler.tree,
    r"/api/models/([^/]+/[^/]+)/preupload/main": _Handler.preupload,
    r"/api/models/([^/]+/[^/]+)/commit/main": _Handler.commit,
    r"/api/repos/create": _Handler.create,
    r"/api/validate-yaml": _Handler.validate,
    r"/cdn/((?:datasets/)?[^/]+/[^/]+)/(\w+)": _Handler.blob,
    r"/upload/(\w+)": _Handler.upload,
    r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": _Handler.batch,
    r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)": _Handler.resolve,
}


def _oid(data: bytes) -> str:
    """The id of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry

"""A small server that speaks as much of the Hugging Face Hub as fetching and pushing models needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        files: content by file name, by repository.
        requests: method and path of everything that was asked for, in order.
        blobs: large files that were uploaded, by their SHA-256, until a commit names them.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.blobs: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub; huggingface_hub, which reads its settings when it is imported, is told of it by hand."""
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by the older protocol
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "whoami-v2"]:
            self._json({"name": "owner", "type": "user"})
        elif parts[:3] == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
            self.hub.files.setdefault(name, {})
            self._json({"url": f"{self.hub.address}/{name}", "name": name})
        elif parts[:2] == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif parts[0] == "lfs":
            self.hub.blobs[parts[1]] = body
            self._reply(200, b"")
        elif parts[-2:] == ["objects", "batch"]:
            self._large_files(json.loads(body))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._reply(404, b"{}")

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        if name not in self.hub.files:
            self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["preupload"]:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            found = [
                {"path": n, "uploadMode": modes[n.endswith(".safetensors")], "shouldIgnore": False}
                for n in names
            ]
            self._json({"files": found})
        elif rest[:1] == ["commit"]:
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        elif rest[:1] == ["tree"]:
            files = self.hub.files[name].items()
            self._json([{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files])
        elif rest[1:] not in ([], ["main"], [COMMIT]):
            self._reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": file} for file in self.hub.files[name]]
            self._json({"id": name, "sha": COMMIT, "siblings": siblings})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[name][value["path"]] = self.hub.blobs[value["oid"]]
        self._json({"commitOid": COMMIT, "commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}"})

    def _large_files(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{entry['oid']}"}}}
            for entry in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _file(self, name: str, file: str) -> None:
        content = self.hub.files.get(name, {}).get(file)
        if content is None:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self._reply(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})

    def _json(self, value: Any) -> None:
        self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()

"""A Hub of our own on 127.0.0.1: the part of the Hub's HTTP protocol that downloads one file, or takes a folder.

    repos = {"org/tiny": {"main": {"config.json": b"{}", "model.safetensors": weights}},
             "datasets/org/tweets": {"main": {"train.jsonl": b"..."}}}
    with HubServer(repos, renamed={"tiny": "org/tiny"}) as server:     # server.url, e.g. http://127.0.0.1:40123
        ...
        assert server.files_asked("org/tiny") == ["config.json"]

In a test, `use_hub(monkeypatch, tmp_path, server.url)` makes that server the Hub of this process, with an
empty cache; `hub_environment(tmp_path, server.url)` is the same for a subprocess. The fixture `hub` does
server and process in one: `server = hub(repos)`. A test module takes it over by `hub = hub_server.hub`.

What it speaks, after what the client library huggingface_hub expects of the real Hub:

    GET /api/models/ID/revision/REVISION    {"id": ..., "sha": the commit}; datasets have /api/datasets/
    HEAD, GET /ID/resolve/REVISION/FILE     ETag, X-Repo-Commit. A file of `lfs_bytes` or more is a redirect to
                                            another host (here: another port), X-Linked-Etag, X-Linked-Size
    GET with Range: bytes=N-                206 and the rest of the file
    POST /api/repos/create, /api/models/ID/preupload/main, /api/models/ID/commit/main: an upload, with the token
    renamed repository                      307 to the new id, relative Location
    errors                                  401, 403 or 404 with X-Error-Code: EntryNotFound, RevisionNotFound,
                                            RepoNotFound, GatedRepo

Faults to order, at any time: `cut`, `shorten`, `busy`, `stop`.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections import defaultdict, namedtuple
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

Request = namedtuple("Request", "method path headers")   # headers: a dict, names in lower case
FOREVER = 10 ** 9


class HubServer:
    """A thread per port: the Hub and its "CDN". Use it as a context manager."""

    def __init__(self, repos, renamed=None, gated=(), token=None, lfs_bytes=1000):
        """repos: {id: {revision: {file name: bytes}}}, a data set's id with datasets/ in front. It may be
        changed while the server runs: that is a new commit.

        renamed: {old id: id}.    gated: ids that want the header "Authorization: Bearer TOKEN".
        lfs_bytes: the size in bytes from which on a file lives on the CDN.
        """
        self.repos, self.renamed, self.gated, self.token = repos, renamed or {}, gated, token
        self.lfs_bytes = lfs_bytes
        self.log = []                          # every Request, in order
        self.cuts = {}                         # file name -> [times left, bytes sent before the cut]
        self.shortened = defaultdict(int)      # file name -> bytes that are missing at its end
        self.busy_answers = 0
        ports = [type(kind.__name__, (kind,), {"hub": self}) for kind in (HubPort, CdnPort)]
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), port) for port in ports]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    # ---- faults ----
    def cut(self, filename, times=FOREVER, after=0):
        """Close the connection `times` times when `after` bytes of (the rest of) the file have been sent."""
        self.cuts[filename] = [times, after]

    def shorten(self, filename, missing):
        """Serve well-formed answers that lack the last `missing` bytes, as a broken proxy does."""
        self.shortened[filename] = missing

    def busy(self, times=FOREVER):
        """Answer the next `times` requests by 503."""
        self.busy_answers = times

    def stop(self):
        """Go down: connections are refused from now on. A second call does nothing."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    # ---- what was asked ----
    def commit(self, repo_id, revision="main"):
        """The 40 hexadecimal digits of a revision, which are a revision themselves: a hash of its files."""
        files = self.repos[repo_id][revision]
        return hashlib.sha1(repr((repo_id, sorted(files.items()))).encode()).hexdigest()

    def files_asked(self, repo_id=None):
        """The names of the files that were asked for, found or not, each once, in order of first question."""
        names = [unquote(match["file"]) for match in (match_path(request.path) for request in self.log)
                 if match and repo_id in (None, match["repo"])]
        return list(dict.fromkeys(names))

    def ranges(self):
        """The Range headers seen: each is a download that was taken up again."""
        return [request.headers["range"] for request in self.log if "range" in request.headers]


def match_path(path):
    """repo, revision, file of a download. A revision is one segment (refs%2Fpr%2F8), hence unquote it later."""
    return re.fullmatch(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)


def match_info(path):
    """kind, repo, revision of the question which commit a revision stands for."""
    return re.fullmatch(r"/api/(?P<kind>models|datasets)/(?P<repo>.+?)/revision/(?P<revision>[^/?]+)(\?.*)?", path)


class Port(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.hub.log.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.busy_answers > 0:
            self.hub.busy_answers -= 1
            return self.answer(503)
        self.serve()

    do_HEAD = do_GET

    def do_POST(self):
        self.hub.log.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.receive(body)

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", cut_after=None, **headers):
        """One answer per connection. Headers are given as X_Repo_Commit=...; None leaves one out."""
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command in ("GET", "POST"):
            self.wfile.write(body[:cut_after])
        self.close_connection = True

    def send_file(self, filename, body, **headers):
        """The bytes of a file, or the rest of them, with the faults that were ordered."""
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        end = len(body) - self.hub.shortened[filename] if self.command == "GET" else len(body)
        if start:
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{end}"
        cut = self.hub.cuts.get(filename, [0, 0])
        cut_after = None
        if self.command == "GET" and cut[0] > 0:
            cut[0] -= 1
            cut_after = cut[1]
        self.answer(206 if start else 200, body[start:end], cut_after, Accept_Ranges="bytes", **headers)


class HubPort(Port):
    def serve(self):
        hub = self.hub
        info = match_info(self.path)
        match = info or match_path(self.path)
        if match is None:
            return self.answer(404)
        repo = match["repo"]
        if repo in hub.renamed:
            return self.answer(307, Location=self.path.replace(repo, hub.renamed[repo], 1))
        if info and info["kind"] == "datasets":
            repo = f"datasets/{repo}"
        sent = self.headers.get("Authorization")
        if repo not in hub.repos:       # the Hub does not tell strangers apart: private or missing
            return self.answer(404 if sent else 401, X_Error_Code="RepoNotFound")
        revision = unquote(match["revision"])
        commits = {hub.commit(repo, name): name for name in hub.repos[repo]}
        revision = commits.get(revision, revision)
        if revision not in hub.repos[repo]:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if info:                        # the page of a gated repository is open, its files are not
            return self.answer(200, json.dumps({"id": match["repo"], "sha": hub.commit(repo, revision)}).encode(),
                               Content_Type="application/json")
        if repo in hub.gated and sent != f"Bearer {hub.token}":
            return self.answer(403 if sent else 401, X_Error_Code="GatedRepo")
        self.serve_file(repo, revision, unquote(match["file"]))

    def receive(self, body):
        """An upload: make the repository, say how each file travels (inside the commit), take the commit."""
        hub = self.hub
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401, b"{}")
        if self.path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            hub.repos.setdefault(repo, {"main": {}})
            return self.answer_json({"url": f"{hub.url}/{repo}"})
        match = re.fullmatch(r"/api/models/(?P<repo>.+)/(?P<what>preupload|commit)/main(\?.*)?", self.path)
        if match is None or match["repo"] not in hub.repos:
            return self.answer(404, b"{}")
        if match["what"] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]
            return self.answer_json({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                hub.repos[match["repo"]]["main"][line["value"]["path"]] = content
        commit = hub.commit(match["repo"])
        self.answer_json({"commitUrl": f"{hub.url}/{match['repo']}/commit/{commit}", "commitOid": commit})

    def answer_json(self, values):
        self.answer(200, json.dumps(values).encode(), Content_Type="application/json")

    def serve_file(self, repo, revision, filename):
        """A small file itself, a large one as a redirect to the CDN."""
        hub = self.hub
        files = hub.repos[repo][revision]
        commit = hub.commit(repo, revision)
        if filename not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        body = files[filename]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if len(body) < hub.lfs_bytes:
            return self.send_file(filename, body, X_Repo_Commit=commit, ETag=etag)
        self.answer(302, Location=f"{hub.cdn_url}/{etag[1:-1]}/{filename}", X_Repo_Commit=commit,
                    X_Linked_Etag=etag, X_Linked_Size=str(len(body)))


class CdnPort(Port):
    def serve(self):
        _, etag, filename = unquote(self.path).split("/", 2)
        for revisions in self.hub.repos.values():
            for files in revisions.values():
                if filename in files and hashlib.sha256(files[filename]).hexdigest() == etag:
                    return self.send_file(filename, files[filename])
        self.answer(404)


def hub_environment(tmp_path, url):
    """Environment variables that make `url` the Hub of a fresh process, with its cache under `tmp_path`."""
    return {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def use_hub(monkeypatch, tmp_path, url, offline=False, token=None):
    """The same for this process: huggingface_hub has read its environment when imported, so set its constants.

    Call it again in the same test to go offline, or to log in, keeping the cache: use_hub(..., offline=True).
    """
    home = tmp_path / "hf"
    settings = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
                "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"),
                "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_TELEMETRY": True}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`server = hub(repos, **options)`: a running HubServer that is this process's Hub. Nobody sleeps."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with ExitStack() as stack:
        def start(repos, **options):
            server = stack.enter_context(HubServer(repos, **options))
            use_hub(monkeypatch, tmp_path, server.url)
            return server
        yield start

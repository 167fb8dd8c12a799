"""What a user of the Hub sees: the right bytes, None only for a file that is not there, and one line per error.

The Hub is tests/hub_server.py on 127.0.0.1; `huggingface_hub` talks to it as it does to the real one.
"""

import hashlib
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import hub_server
from hub_server import HubServer, hub_environment, use_hub
from pocketbert.hub import repository

hub = hub_server.hub                                        # the fixture
WEIGHTS = random.Random(0).randbytes(50_000)                # large enough to be on the CDN
TINY = {"config.json": b'{"hidden_size": 8}', "model.safetensors": WEIGHTS, "vocab.txt": b"[PAD]\n",
        "onnx/model.onnx": b"not asked for"}
ROOT = Path(__file__).parents[2]


def tiny_repos():
    return {"org/tiny": {"main": dict(TINY)}}


def error_of(call, kind, *parts):
    """The call raises `kind` with one line that holds all the parts."""
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert message and "\n" not in message
    assert all(part in message for part in parts), message


# ---- which files ----

def test_a_folder_is_read_without_a_server_and_without_importing_huggingface_hub(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    code = ("import sys; from pocketbert.hub import repository; f = repository(sys.argv[1]); "
            "print(f('config.json').name, f('vocab.txt'), 'huggingface_hub' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "config.json None False\n", done.stderr


def test_a_file_of_the_hub_has_the_servers_bytes_and_a_missing_file_is_none(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    assert find("tokenizer.json") is None and find("onnx") is None          # a folder is no file
    assert {name: find(name).read_bytes() for name in TINY} == TINY
    server.log.clear()
    assert find("model.safetensors") and find("tokenizer.json") is None and server.log == []      # already known
    again = repository("org/tiny")
    assert again("config.json") and again("tokenizer.json") is None and server.files_asked() == []


def test_only_the_files_asked_for_are_downloaded(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    find("config.json"), find("model.safetensors"), find("model.safetensors")
    assert server.files_asked("org/tiny") == ["config.json", "model.safetensors"]


def test_the_revision_after_the_at_sign_is_the_one_read(hub):
    server = hub({"org/tiny": {"main": {"config.json": b"new"}, "v1": {"config.json": b"old"},
                               "refs/pr/8": {"config.json": b"proposed"}}})
    old = server.commit("org/tiny", "v1")
    contents = {revision: repository(f"org/tiny@{revision}")("config.json").read_bytes()
                for revision in ("main", "v1", "refs/pr/8", old)}
    assert contents == {"main": b"new", "v1": b"old", "refs/pr/8": b"proposed", old: b"old"}
    server.log.clear()
    assert repository(f"org/tiny@{old}")("config.json").read_bytes() == b"old"
    assert server.log == []                                 # a commit in the cache needs no request


@pytest.mark.parametrize("first", ["config.json", "tokenizer.json"])        # the second one does not exist
def test_all_files_are_of_one_commit_although_the_branch_moves_between_them(hub, first):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    find(first)
    commit = server.commit("org/tiny")
    server.repos["org/tiny"]["before"] = dict(TINY)
    server.repos["org/tiny"]["main"]["vocab.txt"] = b"other words\n"
    assert find("vocab.txt").read_bytes() == TINY["vocab.txt"] and find.commit == commit
    assert repository("org/tiny")("vocab.txt").read_bytes() == b"other words\n"


def test_an_old_id_leads_to_the_new_one_and_a_dataset_is_not_a_model_of_the_same_name(hub):
    hub({"google-bert/tiny": {"main": TINY}, "datasets/org/tweets": {"main": {"data/train.jsonl": b"{}"}}},
        renamed={"tiny": "google-bert/tiny"})
    find = repository("tiny")
    assert find("model.safetensors").read_bytes() == WEIGHTS and find("tokenizer.json") is None
    assert repository("org/tweets", "dataset")("data/train.jsonl").read_bytes() == b"{}"
    error_of(lambda: repository("org/tweets")("data/train.jsonl"), FileNotFoundError, "known by")


def test_the_token_opens_a_gated_repository_and_is_not_sent_to_the_cdn(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos(), gated=["org/tiny"], token="hf_secret")
    error_of(lambda: repository("org/tiny")("config.json"), PermissionError, "'org/tiny' is gated", "HF_TOKEN")
    use_hub(monkeypatch, tmp_path, server.url, token="hf_secret")
    server.log.clear()
    assert repository("org/tiny")("model.safetensors").read_bytes() == WEIGHTS
    tokens = {"/resolve/" in request.path or "/api/" in request.path: request.headers.get("authorization")
              for request in server.log}
    assert tokens == {True: "Bearer hf_secret", False: None}


# ---- names that lead nowhere ----

@pytest.mark.parametrize("name", ["", "/no/such/folder", "./runs/x", "../x", "~/no-such-folder", "a/b/c", "runs/x/",
                                  "two words", "a--b", "org/tiny@", "org/tiny@../../x", "org/tiny@a b"])
def test_a_name_that_can_only_be_a_path_is_one_line_and_asks_no_server(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                             # where there is no ../x
    server = hub(tiny_repos())
    error_of(lambda: repository(name), FileNotFoundError, repr(name))
    assert server.log == []


def test_a_misspelt_folder_is_not_looked_for_on_the_hub(hub, monkeypatch, tmp_path):
    server = hub({"runs/teachr": {"main": TINY}})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    error_of(lambda: repository("runs/teachr"), FileNotFoundError, "write runs/teachr@main")
    error_of(lambda: repository("runs/model.safetensors"), FileNotFoundError, "is a file: give the folder")
    assert server.log == []
    assert repository("runs/teachr@main")("config.json").exists()


def test_an_unknown_repository_or_revision_is_named(hub):
    server = hub(tiny_repos())
    error_of(lambda: repository("somebody/teachr")("config.json"), FileNotFoundError,
             "neither a folder here nor a model known by " + server.url)
    error_of(lambda: repository("org/tiny@v9")("config.json"), FileNotFoundError, "has no revision 'v9'")
    error_of(lambda: repository(f"org/tiny@{'0' * 40}")("config.json"), FileNotFoundError, "has no revision")


def test_a_file_name_from_an_index_cannot_leave_the_repository(tmp_path):
    for filename in ("../secret", "/etc/passwd", "a/../../b", ""):
        error_of(lambda filename=filename: repository(tmp_path)(filename), ValueError, "not the name of a file inside")


# ---- a Hub that does not answer ----

def test_a_server_that_is_down_is_one_line(hub):
    server = hub(tiny_repos())
    server.stop()
    error_of(lambda: repository("org/tiny")("config.json"), ConnectionError, server.url, "'org/tiny'")


def test_a_busy_hub_is_asked_again_and_one_that_stays_busy_is_an_error(hub):
    server = hub(tiny_repos())
    server.busy(times=2)
    assert repository("org/tiny")("config.json").read_bytes() == TINY["config.json"]
    server.busy()
    error_of(lambda: repository("org/tiny@v1")("model.safetensors"), ConnectionError, "HTTP 503")


def test_a_server_that_goes_down_leaves_the_cache_usable_and_makes_unknown_files_an_error(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    assert find("config.json") and find("tokenizer.json") is None
    server.stop()
    error_of(lambda: find("model.safetensors"), ConnectionError, "cannot get model.safetensors")
    again = repository("org/tiny")
    with pytest.warns(UserWarning, match="from the cache"):
        assert again("config.json").read_bytes() == TINY["config.json"]
    assert again("tokenizer.json") is None and again.commit == find.commit
    error_of(lambda: again("model.safetensors"), ConnectionError)


def test_offline_answers_as_online_did_and_asks_no_server(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos())
    asked = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    online = [repository("org/tiny")(name) for name in asked]
    server.log.clear()
    use_hub(monkeypatch, tmp_path, server.url, offline=True)
    find = repository("org/tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [find(name) for name in asked] == online
        assert [repository(f"org/tiny@{find.commit}")(name) for name in asked] == online
    assert online[2] is None and server.log == []
    with pytest.warns(UserWarning, match="whether 'org/tiny' has merges.txt"):      # nobody has asked for it
        assert find("merges.txt") is None
    for name in ("org/other", "org/tiny@v1"):
        error_of(lambda name=name: repository(name)("config.json"), ConnectionError, "HF_HUB_OFFLINE is set")


def test_a_fresh_process_follows_the_environment_variables(tmp_path):
    code = ("from pocketbert.hub import repository; f = repository('org/tiny'); "
            "print(f('config.json').read_text(), f('no'))")

    def run(offline):
        environment = {**os.environ, **hub_environment(tmp_path, server.url), "HF_TOKEN": "hf_env",
                       "HF_HUB_OFFLINE": offline}
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)

    with HubServer(tiny_repos()) as server:
        online = run("0")
        assert online.stdout == '{"hidden_size": 8} None\n', online.stderr
        assert server.log[0].headers["authorization"] == "Bearer hf_env"
        server.log.clear()
        assert run("1").stdout == online.stdout and server.log == []


def test_a_cache_that_cannot_be_written_is_told_apart_from_the_network(hub, tmp_path):
    hub(tiny_repos())
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/hub").touch()                           # a file where the cache folder should be
    error_of(lambda: repository("org/tiny")("config.json"), OSError, "cannot store config.json", "HF_HOME")


# ---- a download that is cut ----

@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])  # from the CDN, and from the Hub itself
def test_a_cut_download_is_tried_again_and_one_that_is_always_cut_never_loads(hub, filename, tmp_path, monkeypatch):
    server = hub(tiny_repos())
    server.cut(filename, times=3, after=7)
    assert repository("org/tiny")(filename).read_bytes() == TINY[filename]

    server.repos["org/tiny"]["main"][filename] = TINY[filename][::-1]
    server.cut(filename, after=7)
    find = repository("org/tiny")
    find("vocab.txt")
    error_of(lambda: find(filename), ConnectionError, filename)
    assert [path.read_bytes() for path in (tmp_path / "hf").rglob(filename)] == [TINY[filename]]    # the old commit's
    blobs = list(tmp_path.rglob("blobs/*"))                 # each is named by the hash of its bytes
    assert [path.name for path in blobs] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs]
    use_hub(monkeypatch, tmp_path, server.url, offline=True)
    with pytest.warns(UserWarning, match="taken as absent"):
        assert repository("org/tiny")(filename) is None


def test_a_well_formed_answer_that_is_too_short_never_loads(hub, tmp_path):
    server = hub(tiny_repos())
    server.shorten("model.safetensors", missing=1)
    error_of(lambda: repository("org/tiny")("model.safetensors"), ConnectionError, "49999")
    assert not list((tmp_path / "hf").rglob("model.safetensors"))

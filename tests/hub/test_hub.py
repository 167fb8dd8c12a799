"""hub.py against a Hub of our own on 127.0.0.1: what is found, what is fetched, and what is said when it fails."""

import hashlib
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import hub_server
from hub_server import HubServer, hub_environment, use_hub
from pocketbert.hub import PATIENCE_S, repository

hub = hub_server.hub                                        # the fixture
WEIGHTS = random.Random(0).randbytes(50_000)                # large enough to live on the CDN
TINY = {"config.json": b'{"hidden_size": 8}', "model.safetensors": WEIGHTS, "vocab.txt": b"[PAD]\n",
        "onnx/model.onnx": b"not asked for"}
ROOT = Path(__file__).parents[2]


def tiny_repos():
    return {"org/tiny": {"main": dict(TINY)}}


def one_line_of(error_info):
    message = str(error_info.value)
    assert message and "\n" not in message
    return message


def assert_only_whole_files_in(folder):
    """Every file in the cache's blobs/ is named by the hash of its bytes (the ETag), and nothing else is there."""
    blobs = [path for path in folder.rglob("blobs/*")]
    assert [path.name for path in blobs] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs]


# ---- what is found, and what is fetched for it ----

def test_folder_is_read_without_any_server(tmp_path, monkeypatch):
    use_hub(monkeypatch, tmp_path, "http://127.0.0.1:9")
    (tmp_path / "config.json").write_text("{}")
    find = repository(tmp_path)
    assert find.is_local and find("config.json") == tmp_path / "config.json" and find("vocab.txt") is None


def test_hub_file_has_the_servers_bytes_and_a_missing_file_is_none(hub):
    hub(tiny_repos())
    find = repository("org/tiny")
    assert find("tokenizer.json") is None
    assert {name: find(name).read_bytes() for name in TINY} == TINY
    assert find("onnx") is None and not find.is_local       # a folder is no file


def test_only_the_files_asked_for_are_fetched(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    find("config.json"), find("model.safetensors"), find("model.safetensors")
    assert server.files_asked("org/tiny") == ["config.json", "model.safetensors"]
    assert sum(request.method == "GET" for request in server.log) == 2


def test_second_load_asks_one_file_only_because_a_commit_never_changes(hub):
    server = hub(tiny_repos())
    for find in (repository("org/tiny"), repository("org/tiny")):
        server.log.clear()
        assert find("config.json") and find("tokenizer.json") is None and find("model.safetensors")
    assert server.files_asked() == ["config.json"]


def test_large_file_comes_from_the_cdn_without_the_token(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos())
    use_hub(monkeypatch, tmp_path, server.url, token="hf_secret")
    assert repository("org/tiny")("model.safetensors").read_bytes() == WEIGHTS
    on_cdn = [request for request in server.log if "/resolve/" not in request.path]
    assert on_cdn and all("authorization" not in request.headers for request in on_cdn)


def test_revision_after_the_at_sign_is_the_one_read(hub):
    server = hub({"org/tiny": {"main": {"config.json": b"new"}, "v1": {"config.json": b"old"},
                               "refs/pr/8": {"config.json": b"proposed"}}})
    old = server.commit("org/tiny", "v1")
    contents = {revision: repository(f"org/tiny@{revision}")("config.json").read_bytes()
                for revision in ("main", "v1", "refs/pr/8", old)}
    assert contents == {"main": b"new", "v1": b"old", "refs/pr/8": b"proposed", old: b"old"}


def test_commit_is_known_and_kept_when_the_branch_moves_between_two_files(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    find("config.json")
    first = server.commit("org/tiny")
    assert find.commit == first and (find.name, find.revision) == ("org/tiny", "main")
    server.repos["org/tiny"]["before"] = dict(TINY)
    server.repos["org/tiny"]["main"]["vocab.txt"] = b"other words\n"
    assert find("vocab.txt").read_bytes() == TINY["vocab.txt"]
    assert repository("org/tiny")("vocab.txt").read_bytes() == b"other words\n"


def test_pinned_commit_in_the_cache_needs_no_request(hub):
    server = hub(tiny_repos())
    name = f"org/tiny@{server.commit('org/tiny')}"
    repository(name)("config.json")
    server.log.clear()
    assert repository(name)("config.json").read_bytes() == TINY["config.json"] and server.log == []


def test_old_id_is_redirected_to_the_new_one(hub):
    hub({"google-bert/tiny": {"main": TINY}}, renamed={"tiny": "google-bert/tiny"})
    find = repository("tiny")
    assert find("config.json").read_bytes() == TINY["config.json"]
    assert find("model.safetensors").read_bytes() == WEIGHTS and find("tokenizer.json") is None


def test_dataset_is_not_a_model_of_the_same_name(hub):
    hub({"datasets/org/tweets": {"main": {"data/train.jsonl": b'{"text": "hi"}\n'}}})
    assert repository("org/tweets", "dataset")("data/train.jsonl").read_bytes() == b'{"text": "hi"}\n'
    with pytest.raises(FileNotFoundError):
        repository("org/tweets")("data/train.jsonl")


def test_token_is_sent_and_opens_a_gated_repository(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos(), gated=["org/tiny"], token="hf_secret")
    with pytest.raises(PermissionError) as error:
        repository("org/tiny")("config.json")
    assert "'org/tiny' is gated" in one_line_of(error) and "HF_TOKEN" in str(error.value)
    use_hub(monkeypatch, tmp_path, server.url, token="hf_secret")
    assert repository("org/tiny")("config.json").read_bytes() == TINY["config.json"]
    assert server.log[-1].headers["authorization"] == "Bearer hf_secret"


def test_name_in_a_folder_that_is_here_is_a_misspelt_path_and_never_asks_the_hub(hub, monkeypatch, tmp_path):
    server = hub({"runs/teachr": {"main": TINY}})
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="runs/teachr@main"):
        repository("runs/teachr")
    assert server.log == [] and repository("runs/teachr@main")("config.json").exists()


def test_fresh_process_follows_the_environment_variables(tmp_path):
    code = ("from pocketbert.hub import repository; f = repository('org/tiny'); "
            "print(f('config.json').read_text(), f('no'))")

    def run(**more):
        environment = {**os.environ, **hub_environment(tmp_path, server.url), "HF_TOKEN": "hf_env",
                       "HF_HUB_OFFLINE": "0", **more}
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)

    with HubServer(tiny_repos()) as server:
        online = run()
        assert online.stdout == '{"hidden_size": 8} None\n', online.stderr
        assert server.log[0].headers["authorization"] == "Bearer hf_env"
        server.log.clear()
        assert run(HF_HUB_OFFLINE="1").stdout == online.stdout and server.log == []


# ---- names that lead nowhere ----

@pytest.mark.parametrize("name", ["", "/no/such/folder", "./runs/x", "../x", "~/no-such-folder", "a/b/c", "runs/x/",
                                  "two words", "org/tiny@", "org/tiny@../../x", "org/tiny@a b"])
def test_name_that_can_only_be_a_path_asks_no_server(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no ../x
    server = hub(tiny_repos())
    with pytest.raises(FileNotFoundError) as error:
        repository(name)
    assert repr(name) in one_line_of(error) and server.log == []


def test_file_instead_of_its_folder_is_told_so(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="is a file: give the folder"):
        repository(tmp_path / "model.safetensors")


def test_misspelt_name_is_neither_a_folder_nor_on_the_hub(hub):
    server = hub(tiny_repos())
    with pytest.raises(FileNotFoundError) as error:
        repository("somebody/teachr")("config.json")
    assert "neither a folder here nor a model known by " + server.url in one_line_of(error)


def test_unknown_revision_is_named(hub):
    hub(tiny_repos())
    with pytest.raises(FileNotFoundError) as error:
        repository("org/tiny@v9")("config.json")
    assert "has no revision 'v9'" in one_line_of(error)


def test_file_name_from_an_index_cannot_leave_the_repository(tmp_path):
    for filename in ("../secret", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ValueError, match="not the name of a file inside"):
            repository(tmp_path)(filename)


# ---- a Hub that does not answer ----

def test_server_that_is_down_is_one_line_within_seconds(hub, monkeypatch):
    server = hub(tiny_repos())
    server.stop()
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(ConnectionError) as error:
        repository("org/tiny")("config.json")
    assert server.url in one_line_of(error) and "'org/tiny'" in str(error.value)
    assert sum(pauses) <= PATIENCE_S      # and not the library's half minute


def test_hub_that_is_busy_is_asked_again(hub, monkeypatch):
    server = hub(tiny_repos())
    monkeypatch.setattr("pocketbert.hub.PATIENCE_S", 60)
    server.busy(times=2)
    assert repository("org/tiny")("config.json").read_bytes() == TINY["config.json"]


def test_hub_that_stays_busy_is_an_error_and_never_absence(hub):
    server = hub(tiny_repos())
    server.busy()
    with pytest.raises(ConnectionError, match="HTTP 503"):
        repository("org/tiny")("model.safetensors")


def test_server_that_goes_down_leaves_the_cache_usable_but_unknown_files_an_error(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    assert find("config.json") and find("tokenizer.json") is None
    server.stop()
    again = repository("org/tiny")
    with pytest.warns(UserWarning, match="from the cache"):
        assert again("config.json").read_bytes() == TINY["config.json"]
    assert again("tokenizer.json") is None and again.commit == find.commit
    with pytest.raises(ConnectionError) as error:
        again("model.safetensors")
    one_line_of(error)


def test_server_that_goes_down_between_two_files_is_an_error_and_never_absence(hub):
    server = hub(tiny_repos())
    find = repository("org/tiny")
    find("config.json")
    server.stop()
    with pytest.raises(ConnectionError, match="cannot get model.safetensors") as error:
        find("model.safetensors")
    one_line_of(error)


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
    assert online[2] is None and find.commit == server.commit("org/tiny") and server.log == []


def test_offline_takes_a_file_nobody_asked_for_as_absent_and_warns(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos())
    repository("org/tiny")("config.json")
    use_hub(monkeypatch, tmp_path, server.url, offline=True)
    find = repository("org/tiny")
    with pytest.warns(UserWarning, match="whether 'org/tiny' has model.safetensors"):
        assert find("model.safetensors") is None


def test_offline_repository_that_was_never_fetched_is_an_error(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos())
    repository("org/tiny")("no-such-file")      # the cache notes the 404, which is not yet a repository
    use_hub(monkeypatch, tmp_path, server.url, offline=True)
    for name in ("org/tiny", "org/other", "org/tiny@v1"):
        with pytest.raises(ConnectionError) as error:
            repository(name)("config.json")
        assert "HF_HUB_OFFLINE is set" in one_line_of(error)


def test_cache_that_cannot_be_written_is_told_apart_from_the_network(hub, monkeypatch, tmp_path):
    hub(tiny_repos())
    (tmp_path / "hf").touch()                   # a file where the cache folder should be
    with pytest.raises(OSError) as error:
        repository("org/tiny")("config.json")
    assert "cannot store config.json" in one_line_of(error) and "HF_HOME" in str(error.value)


# ---- a download that is cut ----

def test_cut_download_is_resumed_at_the_last_full_chunk(hub):
    chunk = 10 * 2 ** 20                        # what huggingface_hub writes at a time; the rest is asked for again
    weights = random.Random(1).randbytes(chunk + 1000)
    server = hub({"org/tiny": {"main": {"model.safetensors": weights}}})
    server.cut("model.safetensors", times=1, after=chunk + 500)
    assert repository("org/tiny")("model.safetensors").read_bytes() == weights
    assert server.ranges() == [f"bytes={chunk}-"]


@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])       # by the CDN, and by the Hub itself
def test_cut_download_of_less_than_a_chunk_starts_again(hub, filename):
    server = hub(tiny_repos())
    server.cut(filename, times=3, after=7)
    assert repository("org/tiny")(filename).read_bytes() == TINY[filename]
    assert server.ranges() == [] and server.cuts[filename] == [0, 7]


@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])
def test_download_that_is_always_cut_is_reported_and_leaves_nothing_behind(hub, filename, tmp_path):
    server = hub(tiny_repos())
    server.cut(filename, after=7)               # forever
    find = repository("org/tiny")
    find("vocab.txt")
    with pytest.raises(ConnectionError) as error:
        find(filename)
    assert filename in one_line_of(error)
    assert not list((tmp_path / "hf").rglob(filename))
    assert_only_whole_files_in(tmp_path)
    server.cuts.clear()
    assert repository("org/tiny")(filename).read_bytes() == TINY[filename]


def test_well_formed_answer_that_is_too_short_is_reported(hub, tmp_path):
    server = hub(tiny_repos())
    server.shorten("model.safetensors", missing=1)
    with pytest.raises(ConnectionError) as error:
        repository("org/tiny")("model.safetensors")
    assert "49999" in one_line_of(error)
    assert not list((tmp_path / "hf").rglob("model.safetensors"))
    assert_only_whole_files_in(tmp_path)


def test_offline_after_a_cut_download_never_gives_the_part(hub, monkeypatch, tmp_path):
    server = hub(tiny_repos())
    server.cut("model.safetensors", after=0)
    find = repository("org/tiny")
    find("config.json")
    with pytest.raises(ConnectionError):
        find("model.safetensors")
    use_hub(monkeypatch, tmp_path, server.url, offline=True)
    with pytest.warns(UserWarning, match="taken as absent"):
        assert repository("org/tiny")("model.safetensors") is None


# ---- checkpoints in each layout, loaded through the Hub ----

"""One file of a model or a dataset, from a folder or from the Hugging Face Hub.

    find = repository("google-bert/bert-base-uncased")      # or "runs/teacher", or "org/name@revision"
    config = json.loads(find("config.json").read_text())
    weights = find("model.safetensors") or find("pytorch_model.bin")

`find(filename)` returns the local path of the file, or None if the repository has no such file. The caller then tries
the next layout, so None must be certain: a server that is down, a download that was cut and a gated repository are
errors of one line, never None.

`huggingface_hub` downloads and caches the files, so its settings apply: HF_TOKEN or `hf auth login`, HF_HOME (the
cache), HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1. It is imported only when a name is not a local folder.

A branch such as `main` can move between two downloads. The Hub is therefore asked once which commit the branch stands
for, and every file is taken from that commit. A commit never changes, so what the cache knows about it needs no
further question.
"""

import re
import warnings
from pathlib import Path, PurePosixPath

from pocketbert.errors import UserError

TIMEOUT_S = 10  # for the question which commit a branch stands for
REPO_ID = re.compile(r"([A-Za-z0-9_]([\w.-]*\w)?/)?[A-Za-z0-9_]([\w.-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)[\w./-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(name, repo_type="model"):
    """The function that finds the files of `name`: a folder, or a Hub id `org/name`, `name` or `org/name@revision`.

    A revision is a branch, a tag, `refs/pr/8` or, best, a commit of 40 hexadecimal digits, which never changes.
    repo_type: "model" or "dataset". No server is asked before the first file.
    """
    name = str(name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return Folder(name, path)
    if name and path.exists():
        raise FileNotFoundError(f"{name!r} is a file: give the folder that holds it")
    repo_id, at, revision = name.partition("@")
    if not REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise FileNotFoundError(f"{name!r} is no folder here and cannot be a Hub id: check the spelling")
    if at and not REVISION.fullmatch(revision):
        raise FileNotFoundError(f"{name!r}: after the @ comes a branch, a tag or a commit")
    if "/" in repo_id and not at and Path(repo_id).parent.is_dir():  # a typing error must not load a stranger's weights
        raise FileNotFoundError(f"{Path(repo_id).parent} is a folder here without {Path(repo_id).name!r} in it: check "
                                f"the spelling (if you mean the Hub's, write {repo_id}@main)")
    return HubRepository(repo_id, revision or "main", repo_type)


def check_filename(filename, name):
    """Refuse a path that leaves the repository: file names also come from a model.safetensors.index.json."""
    parts = PurePosixPath(filename).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise UserError(f"{filename!r} is not the name of a file inside {name!r}")


class Folder:
    """Finds the files of a local folder."""

    def __init__(self, name, path):
        self.name = name
        self.path = path

    def __call__(self, filename):
        check_filename(filename, self.name)
        path = self.path / filename
        return path if path.is_file() else None


class HubRepository:
    """Finds the files of one repository of the Hub, all of the same commit.

    name       the Hub id without its revision
    commit     40 hexadecimal digits; None before the first file is asked for
    problem    why the Hub does not answer, so that only the cache is used; None if it answers
    """

    def __init__(self, name, revision, repo_type):
        self.name = name
        self.revision = revision
        self.repo_type = repo_type
        self.commit = None
        self.problem = None
        self.answered = False  # has any file been asked for?

    def __call__(self, filename):
        from huggingface_hub import try_to_load_from_cache

        check_filename(filename, self.name)
        if self.commit is None:
            self.connect()
        known = self.commit and try_to_load_from_cache(self.name, filename, revision=self.commit,
                                                       repo_type=self.repo_type)
        if known:  # a path or, as another object, "the Hub has said that there is no such file"
            path = Path(known) if isinstance(known, str) else None
        else:
            path = self.take_as_absent(filename) if self.problem else self.download(filename)
        self.answered = True
        return path

    def connect(self):
        """Set `commit`: the one that the Hub names or, if it does not answer, the one that the cache holds."""
        from huggingface_hub import HfApi

        if COMMIT.fullmatch(self.revision) and not offline():
            self.commit = self.revision
            return
        try:
            self.commit = HfApi().repo_info(self.name, repo_type=self.repo_type, revision=self.revision,
                                            timeout=TIMEOUT_S).sha
        except Exception as error:  # of requests or httpx: each release of the library has its own
            problem = one_line(error, self, "the list of files")
            self.commit = self.cached_commit() if isinstance(problem, ConnectionError) else None
            if self.commit:
                self.problem = problem
                if not offline():
                    warnings.warn(f"using commit {self.commit} from the cache: {problem}", stacklevel=3)
            elif offline() or not isinstance(problem, ConnectionError):
                raise problem from error
            # Otherwise the Hub is busy or down, and `download` asks again, more patiently.

    def cached_commit(self):
        """The commit that the cache holds for the revision, or None."""
        from huggingface_hub import errors, snapshot_download

        try:  # allow_patterns=[]: the folder is wanted, whichever files are in it
            folder = Path(snapshot_download(self.name, repo_type=self.repo_type, revision=self.revision,
                                            local_files_only=True, allow_patterns=[]))
        except errors.LocalEntryNotFoundError:
            return None
        return folder.name if any(folder.iterdir()) else None

    def take_as_absent(self, filename):
        """None with a warning if HF_HUB_OFFLINE is set; an error if the Hub is down.

        The cache holds other files of this commit but knows nothing of this one. A model that another program has
        downloaded must load, although that program did not ask for every optional file.
        """
        if not offline():
            raise self.problem
        warnings.warn(f"HF_HUB_OFFLINE is set and the cache does not know whether {self.name!r} has {filename}: "
                      "taken as absent", stacklevel=3)

    def download(self, filename):
        """Fetch one file. It gets its name in the cache only when every byte has arrived."""
        from huggingface_hub import errors, hf_hub_download

        # The first file is asked for by the name of the branch: the cache then remembers which commit that was.
        revision = self.commit if self.commit and self.answered else self.revision
        try:
            path = Path(hf_hub_download(self.name, filename, repo_type=self.repo_type, revision=revision))
        except Exception as error:
            # LocalEntryNotFoundError is a kind of EntryNotFoundError, but it means: could not ask.
            if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
                return None
            raise one_line(error, self, filename) from error
        self.commit = path.parents[filename.count("/")].name  # .../snapshots/COMMIT/filename
        return path if path.is_file() else None  # "onnx" may be a folder there


def offline():
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def one_line(error, repo, filename):
    """An exception of huggingface_hub as an OSError of one line that says what to do next."""
    from huggingface_hub import HfApi, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not found in the cache", because of this
    hub = HfApi().endpoint
    what = f"{repo.repo_type} {repo.name!r}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if offline():
        return ConnectionError(f"{what} at revision {repo.revision!r} is not in the cache, and HF_HUB_OFFLINE is set: "
                               "unset it and run once with a network")
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError, hence first
        return PermissionError(f"{what} is gated: accept its conditions on {hub}, then set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(f"{repo.name!r} is neither a folder here nor a {repo.repo_type} known by {hub}: "
                                 "check the spelling, or set HF_TOKEN if it is private")
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{what} has no revision {repo.revision!r}: see its branches on {hub}")
    if status in (401, 403):
        return PermissionError(f"{hub} refuses {filename} of {what} (HTTP {status}): check HF_TOKEN")
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError):
        return OSError(f"cannot store {filename} of {what} in {error.filename} ({error.strerror}): "
                       "set HF_HOME to a folder with room")
    reason = f"HTTP {status}" if status else " ".join(str(error).split())[:200] or type(error).__name__
    return ConnectionError(f"cannot get {filename} of {what} from {hub} ({reason}): check the network and run "
                           "again, or set HF_HUB_OFFLINE=1 to use the cache")

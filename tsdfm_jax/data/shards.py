"""ArrayRecord shards: written whole, checked by name, size and sha256, read by grain."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

import grain
import grain.experimental
import numpy as np
from array_record.python import array_record_module

from tsdfm_jax.storage import atomic

SUFFIX = ".array_record"
# One record per group suits random access. Without compression the bytes depend only on the records.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# ArrayRecord reports disk errors only as text.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
# A little read-ahead: batches are small, and grain's default would hold five hundred of them.
_READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)

Entry = dict[str, Any]


def name(prefix: str, number: int) -> str:
    """The file name of shard `number` of `prefix`."""
    return f"{prefix}-{number:05d}{SUFFIX}"


def write(path: pathlib.Path, records: Iterable[bytes], before_rename: Callable[[Entry], None] | None = None) -> Entry:
    """Write a shard, whole or not at all, and return its manifest entry: name, records, bytes, sha256.

    `before_rename` receives the entry when the bytes are written, before the shard gets its name.
    Errors: OSError with its errno if the disk refuses (full, over quota, read-only).
    """
    count = 0
    with atomic.replacing(path) as temporary:
        try:
            writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
            for record in records:
                writer.write(record)
                count += 1
            writer.close()
        except RuntimeError as error:
            raise _disk_error(error, path) from error
        entry = {"name": path.name, "records": count, "bytes": temporary.stat().st_size, "sha256": atomic.sha256(temporary)}
        if before_rename:
            before_rename(entry)
    return entry


def _disk_error(error: RuntimeError, path: pathlib.Path) -> Exception:
    for code in _DISK_ERRORS:
        if os.strerror(code) in str(error):
            return OSError(code, os.strerror(code), str(path))
    return error


def check(directory: pathlib.Path, entries: Sequence[Entry], remedy: str, *, digest: bool) -> None:
    """Raise ValueError naming the first shard that is missing, truncated, foreign or, with `digest`, altered.

    Without `digest` it checks only names and sizes and reads nothing. `remedy` ends the error's line.
    """
    expected = {entry["name"] for entry in entries}
    for path in sorted(directory.glob("*" + SUFFIX)):
        if path.name not in expected:
            raise ValueError(f"shard {path} is foreign (the manifest does not name it): {remedy}")
    _raise_fault(directory, entries, remedy, digest=digest)


def _raise_fault(directory: pathlib.Path, entries: Sequence[Entry], remedy: str, *, digest: bool) -> None:
    for entry in entries:
        if problem := fault(directory, entry, digest=digest):
            raise ValueError(f"shard {directory / entry['name']} is {problem}: {remedy}")


def fault(directory: pathlib.Path, entry: Entry, *, digest: bool) -> str:
    """What is wrong with one shard, or an empty string."""
    path = directory / entry["name"]
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"truncated or foreign ({size:,} bytes, the manifest says {entry['bytes']:,})"
    if digest and atomic.sha256(path) != entry["sha256"]:
        return "corrupted (its sha256 differs from the manifest's)"
    return ""


class Source(grain.sources.ArrayRecordDataSource):
    """Random access to the raw records of all shards, in the order of the manifest.

    Errors: ValueError if ArrayRecord's own checksums fail, naming the damaged shard if one is found; `remedy` ends its line.
    """

    def __init__(self, directory: pathlib.Path, entries: Sequence[Entry], remedy: str):
        self._directory, self._entries, self._remedy = directory, entries, remedy
        with self._naming_fault():
            super().__init__([str(directory / entry["name"]) for entry in entries])

    @contextlib.contextmanager
    def _naming_fault(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # ArrayRecord raises nothing more specific, and names no file
            _raise_fault(self._directory, self._entries, self._remedy, digest=True)
            raise ValueError(f"shards in {self._directory} cannot be read ({error}): {self._remedy}") from None

    def __getitem__(self, record_key: SupportsIndex) -> bytes:
        with self._naming_fault():
            return super().__getitem__(record_key)

    def __getitems__(self, record_keys: Sequence[SupportsIndex]) -> Sequence[bytes]:
        with self._naming_fault():
            return super().__getitems__(record_keys)


def batches(
    directory: pathlib.Path,
    entries: Sequence[Entry],
    decode: Callable[[Sequence[bytes]], Any],
    *,
    batch: int,
    seed: int,
    share: tuple[Sequence[int], int],
    shuffle: bool,
    repeat: bool,
    description: str,
    remedy: str,
    first: int = 0,
) -> grain.DatasetIterator:
    """An iterator over `decode`d batches, or a share of each, reshuffled every epoch.

    `share` is ((0,), 1) for whole batches, ((1,), 2) for the second half of each, ((0, 2), 4) for its first and third
    quarter. A record's batch and row do not depend on the share; nor does the iterator's state. An epoch is cut to whole
    batches; the shuffle comes before the cut, so each epoch drops different records. With `first`, only so many records are
    read, from the first on.
    Errors: ValueError for a batch that does not split into such parts or is larger than the data (`description` names the
    records); the iterator raises it for a damaged shard (`remedy` ends the line).
    """
    (parts, part_count), count = share, sum(entry["records"] for entry in entries)
    count = min(first, count) if first else count
    if batch < 1 or batch % part_count:
        raise ValueError(f"batch {batch} is not divisible by the {part_count} parts that it is read in: choose a positive multiple")
    if count < batch:
        raise ValueError(f"batch {batch} is larger than the {count} {description}: lower the batch or give more data")
    records = grain.MapDataset.source(Source(directory, entries, remedy))
    records = (records[:count] if first else records).seed(seed)
    if shuffle:
        records = records.shuffle()
    pieces = records[: count - count % batch].batch(batch // part_count, drop_remainder=True, batch_fn=decode)
    stream = pieces[parts[0] :: part_count]
    if len(parts) > 1:
        stream = grain.experimental.ZipMapDataset([pieces[part::part_count] for part in parts]).map(_concatenate)
    if repeat:
        stream = stream.repeat()
    return iter(stream.to_iter_dataset(_READ_OPTIONS))


def _concatenate(pieces: Sequence[Any]) -> Any:
    if isinstance(pieces[0], dict):
        return {field: np.concatenate([piece[field] for piece in pieces]) for field in pieces[0]}
    return np.concatenate(pieces)


class Joined:
    """Several iterators as one over dicts of their batches, with one state, so that a checkpoint resumes them all."""

    def __init__(self, parts: dict[str, grain.DatasetIterator]):
        self._parts = parts

    def __iter__(self) -> "Joined":
        return self

    def __next__(self) -> dict[str, Any]:
        return {name: next(part) for name, part in self._parts.items()}

    def get_state(self) -> dict[str, Any]:
        """The position of every part, as plain JSON."""
        return {name: part.get_state() for name, part in self._parts.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Set every part back to its position in a `get_state`."""
        for name, position in state.items():
            self._parts[name].set_state(position)

"""The trajectory store: fixed-size records in ArrayRecord shards, and a manifest with a checksum of every shard."""

import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from tsdfm_jax.data import shards
from tsdfm_jax.storage import atomic

_PREFIX = "shard"
_MANIFEST = "manifest.json"
_CRC_BYTES = 4
_STAGE = "trajectories"  # the stage whose store it is, unless a caller names another


def _remedy(stage: str) -> str:
    """What mends a damaged store: the end of an error's line."""
    return f"delete it and run --stage={stage} again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """The fields of a record, in order.

    Attributes:
        fields: name → (dtype, shape), such as {"states": ("uint16", (17, 64)), "index": ("int8", (16,))}.
    """

    fields: Mapping[str, tuple[str, tuple[int, ...]]]

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """One record without its checksum: little-endian, no padding."""
        return np.dtype([(name, np.dtype(kind).newbyteorder("<"), tuple(shape)) for name, (kind, shape) in self.fields.items()])

    def to_json(self) -> list[list[Any]]:
        """The fields as plain JSON, in order."""
        return [[name, np.dtype(kind).name, list(shape)] for name, (kind, shape) in self.fields.items()]


def _schema(fields: list[list[Any]]) -> Schema:
    return Schema(fields={name: (kind, tuple(shape)) for name, kind, shape in fields})


def content_hash(path: pathlib.Path) -> str:
    """The sha256, in hex, of a file's bytes or of all names and bytes below a directory; raises FileNotFoundError."""
    return atomic.content_hash(path)


def write_shard(
    directory: pathlib.Path, number: int, schema: Schema, arrays: Mapping[str, np.ndarray], provenance: str = ""
) -> dict[str, Any]:
    """Write shard `number`, whole or not at all; `arrays` holds the fields with a leading axis N.

    The same arrays give the same bytes. `provenance` is any text, such as a hash of config and weights; `finished_shards`
    later counts the shard only for the same text.
    Errors: ValueError if fields, shapes or values do not fit the schema; OSError from the disk.
    """
    rows = _rows(schema, arrays)
    path = directory / shards.name(_PREFIX, number)
    # The note is written before the shard gets its name, so that a reader never sees a shard without checksums.
    return shards.write(
        path, (_with_checksum(row.tobytes()) for row in rows), functools.partial(_write_note, path, schema, provenance)
    )


def _write_note(path: pathlib.Path, schema: Schema, provenance: str, entry: dict[str, Any]) -> None:
    atomic.write_sealed(_note_path(path), {"entry": entry, "schema": schema.to_json(), "provenance": provenance})


def _note_path(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_suffix(".json")


def _with_checksum(row: bytes) -> bytes:
    return row + zlib.crc32(row).to_bytes(_CRC_BYTES, "little")


def _rows(schema: Schema, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if set(arrays) != set(schema.fields):
        raise ValueError(f"a record needs the fields {sorted(schema.fields)}, not {sorted(arrays)}")
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or not (count := counts.pop()):
        raise ValueError(f"a shard needs fields of one common, positive length, not {sorted(len(a) for a in arrays.values())}")
    rows = np.zeros(count, schema.dtype)
    for name, values in arrays.items():
        array, (kind, shape) = np.asarray(values), schema.fields[name]
        if array.shape[1:] != tuple(shape):
            raise ValueError(f"field {name!r} has records of shape {array.shape[1:]}, the schema says {tuple(shape)}")
        with np.errstate(invalid="ignore", over="ignore"):
            rows[name] = array.astype(kind)
        floating = np.dtype(kind).kind == "f"
        if not np.array_equal(rows[name].astype(array.dtype), array, equal_nan=floating):
            raise ValueError(f"field {name!r} ({array.dtype}) has values that {kind} cannot hold: widen the schema")
    return rows


def finished_shards(directory: pathlib.Path, schema: Schema, provenance: str = "") -> set[int]:
    """The numbers of the shards that are complete, intact and of this schema and provenance.

    Half-written or altered shards are left out; `write_shard` replaces them. Reads every byte.
    """
    return {number for number, _ in _finished_entries(directory, schema, provenance)}


def _finished_entries(directory: pathlib.Path, schema: Schema, provenance: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for path in sorted(directory.glob(f"{_PREFIX}-*{shards.SUFFIX}")):
        number = path.stem.removeprefix(f"{_PREFIX}-")
        try:
            note = atomic.read_sealed(_note_path(path), missing="", damaged="")
            store_fits = note["schema"] == schema.to_json() and note["provenance"] == provenance
        except (ValueError, FileNotFoundError):
            continue
        name_fits = number.isdigit() and note["entry"]["name"] == path.name
        if store_fits and name_fits and not shards.fault(directory, note["entry"], digest=True):
            yield int(number), note["entry"]


def seal(
    directory: pathlib.Path,
    schema: Schema,
    *,
    seed: int,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    shards: int,
    provenance: str = "",
    stage: str = _STAGE,
) -> dict[str, Any]:
    """Write the manifest of a store of shards 0 … `shards` − 1, and return it.

    `sources` holds content hashes by name: teacher, compass, tokenizer. `stage` makes the store, and is the remedy in errors.
    Errors: ValueError naming the first unfinished shard, or one too many.
    """
    entries = _entries(directory, schema, provenance, shards, stage)
    body = {
        "version": 1,
        "schema": schema.to_json(),
        "records": sum(entry["records"] for entry in entries),
        "shards": entries,
        "seed": seed,
        "config": json.loads(json.dumps(dict(config))),
        "sources": dict(sources),
        "provenance": provenance,
    }
    return atomic.write_sealed(directory / _MANIFEST, body)


def _entries(directory: pathlib.Path, schema: Schema, provenance: str, count: int, stage: str) -> list[dict[str, Any]]:
    finished = dict(_finished_entries(directory, schema, provenance))
    for number in range(count):
        if number not in finished:
            raise ValueError(f"shard {directory / shards.name(_PREFIX, number)} is unfinished: run --stage={stage} again")
    entries = [finished[number] for number in range(count)]
    shards.check(directory, entries, _remedy(stage), digest=False)
    return entries


def open_store(directory: pathlib.Path, stage: str = _STAGE) -> "Store":
    """Open a sealed store, after checking every byte of it; `stage` is the remedy in errors.

    Errors: FileNotFoundError without a manifest; ValueError naming the manifest or shard that is damaged, truncated,
    missing or foreign.
    """
    remedy = _remedy(stage)
    manifest = atomic.read_sealed(directory / _MANIFEST, missing=f"run --stage={stage} first", damaged=remedy)
    shards.check(directory, manifest["shards"], remedy, digest=True)
    store = Store(directory, manifest, remedy)
    record_count = len(shards.Source(directory, manifest["shards"], remedy))
    if record_count != len(store):
        raise ValueError(f"{directory / _MANIFEST} counts {len(store)} records and the shards hold {record_count}: {remedy}")
    return store


def _unpack(records: Sequence[bytes], *, dtype: np.dtype, where: str, remedy: str) -> dict[str, np.ndarray]:
    size = dtype.itemsize + _CRC_BYTES
    for record in records:
        if len(record) != size or _with_checksum(record[:-_CRC_BYTES]) != record:
            raise ValueError(f"a record in {where} is corrupted (checksum): {remedy}")
    rows = np.frombuffer(b"".join(record[:-_CRC_BYTES] for record in records), dtype)
    return {name: np.ascontiguousarray(rows[name]).astype(rows[name].dtype.newbyteorder("=")) for name in dtype.names}


def _select_fields(
    unpack: Callable[..., dict[str, np.ndarray]], fields: Sequence[str], records: Sequence[bytes]
) -> dict[str, np.ndarray]:
    rows = unpack(records)
    return {name: rows[name] for name in fields}


class Store:
    """A sealed store of records; made by `open_store`.

    Attributes:
        schema: the fields of its records.
        manifest: seed, config, sources, shards, as sealed.
    """

    def __init__(self, directory: pathlib.Path, manifest: dict[str, Any], remedy: str):
        self.schema, self.manifest = _schema(manifest["schema"]), manifest
        self._directory, self._remedy = directory, remedy
        self._unpack = functools.partial(_unpack, dtype=self.schema.dtype, where=str(directory), remedy=remedy)

    @functools.cached_property
    def _source(self) -> shards.Source:
        return shards.Source(self._directory, self.manifest["shards"], self._remedy)

    def __len__(self) -> int:
        return self.manifest["records"]

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Record `number` by field; IndexError past the end, ValueError where its checksum fails."""
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)} in {self._directory}")
        return {name: rows[0] for name, rows in self._unpack([self._source[number]]).items()}

    def batches(
        self,
        batch: int,
        seed: int,
        share: tuple[Sequence[int], int] = ((0,), 1),
        shuffle: bool = True,
        repeat: bool = True,
        fields: Sequence[str] = (),
        first: int = 0,
    ) -> grain.DatasetIterator:
        """An iterator over dicts of [batch, …], or this share of their rows (see shards.batches), reshuffled every epoch.

        `fields` selects fields; empty means all. `first` reads only so many records, from the first on; 0 means all.
        """
        return shards.batches(
            self._directory,
            self.manifest["shards"],
            functools.partial(_select_fields, self._unpack, tuple(fields or self.schema.fields)),
            batch=batch,
            seed=seed,
            share=share,
            shuffle=shuffle,
            repeat=repeat,
            description=f"records in {self._directory}",
            remedy=self._remedy,
            first=first,
        )

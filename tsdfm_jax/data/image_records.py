"""The store of images or latents: records {x, y} of each split in ArrayRecord shards, below one directory.

Letters in names: N records, H and W height and width, C channels, V width of a conditioning vector, B batch.
"""

import hashlib
import json
import pathlib
from typing import Any

import grain
import numpy as np

from tsdfm_jax.data import records, shards
from tsdfm_jax.storage import atomic

SPLITS = ("train", "heldout")
_MANIFEST = "manifest.json"


def write(
    directory: pathlib.Path,
    split: str,
    x_NHWC: np.ndarray,
    y: np.ndarray | None,
    *,
    names: tuple[str, ...] = (),
    images_per_shard: int = 4096,
    seed: int = 0,
    provenance: str = "",
    stage: str = "images",
) -> dict[str, Any]:
    """Write a split's records to `directory`/`split`, and return its manifest; the same arrays give the same bytes.

    `y` is int [N] with the classes' `names`, float [N, V], or None. Shards of the same `provenance` that are whole stay; those of
    an earlier, longer split are removed. `stage` is the remedy in errors.
    Errors: ValueError for arrays of different lengths or no image; OSError from the disk.
    """
    arrays = {"x": np.asarray(x_NHWC, np.float32)}
    if y is not None:
        arrays["y"] = np.asarray(y, np.int32 if np.ndim(y) == 1 else np.float32)
    schema = records.Schema(fields={name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()})
    place, count = directory / split, -(-len(arrays["x"]) // images_per_shard)
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place, {shards.name("shard", number) for number in range(count)})
    finished = records.finished_shards(place, schema, provenance)
    for number in sorted(set(range(max(count, 1))) - finished):
        rows = slice(number * images_per_shard, (number + 1) * images_per_shard)
        records.write_shard(place, number, schema, {name: array[rows] for name, array in arrays.items()}, provenance)
    low, high = (float(limit(arrays["x"])) for limit in (np.min, np.max))
    about = {"names": list(names), "range": [low, high], "counts": _counts(arrays.get("y"), names)}
    return records.seal(place, schema, seed=seed, config=about, sources={}, shards=count, provenance=provenance, stage=stage)


def _sweep(place: pathlib.Path, keep: set[str]) -> None:
    """Remove the shards that are not to be kept, the notes beside them, and what makes the split a whole one."""
    (place / _MANIFEST).unlink(missing_ok=True)
    for shard in place.glob("*" + shards.SUFFIX):
        if shard.name not in keep:
            shard.unlink()
            shard.with_suffix(".json").unlink(missing_ok=True)


def _counts(y: np.ndarray | None, names: tuple[str, ...]) -> list[int] | None:
    """Records of each class; None without classes."""
    return np.bincount(y, minlength=len(names)).tolist() if y is not None and y.ndim == 1 else None


def batches(
    directory: pathlib.Path,
    split: str,
    batch: int,
    seed: int,
    share: tuple[Any, int] = ((0,), 1),
    shuffle: bool = True,
    repeat: bool = True,
    stage: str = "images",
    first: int = 0,
) -> grain.DatasetIterator:
    """An iterator over {"x": x_BHWC, "y": y_B or y_BV}, or this share of their rows, reshuffled every epoch; see shards.batches.

    There is no "y" without labels. `first` reads only so many records, from the first on; 0 means all. get_state and set_state
    resume it. Errors: ValueError if the batch does not split into such parts, is larger than the split, or a shard is damaged.
    """
    return records.open_store(directory / split, stage).batches(batch, seed, share, shuffle, repeat, first=first)


def arrays(directory: pathlib.Path, split: str, count: int = 0, stage: str = "images") -> dict[str, np.ndarray]:
    """The first `count` records of a split, all if 0, as {"x": x_NHWC, "y": y_N or y_NV}; their order was drawn when it was made.

    Errors: ValueError for more records than there are.
    """
    store = records.open_store(directory / split, stage)
    if count > len(store):
        raise ValueError(f"{count} records of {directory / split} are asked for and it has {len(store)}: ask for fewer")
    return next(store.batches(count or len(store), 0, shuffle=False, repeat=False))


def about(directory: pathlib.Path, stage: str = "images") -> dict[str, Any]:
    """What is in a store, by its manifests; opens no shard.

    Returns:
        shape: [H, W, C], and channels: C.
        classes: number of classes, 0 without; vector: V, 0 without conditioning vectors; names: of the classes.
        counts: {split: records}, and counts_by_class: {split: records of each class}, the latter None without classes.
        range: [lowest, highest] number of all records.
        hash: of all records.

    Errors: FileNotFoundError without a manifest; ValueError where one is damaged.
    """
    found = {split: _manifest(directory / split, stage) for split in SPLITS}
    fields = {name: (kind, shape) for name, kind, shape in found["train"]["schema"]}
    kind, y_shape = fields.get("y", ("", None))
    notes = {split: one["config"] for split, one in found.items()}
    names = notes["train"]["names"]
    by_class = {split: note["counts"] for split, note in notes.items()}
    classes = len(names) or (max(map(len, by_class.values())) if kind == "int32" else 0)
    return {
        "shape": fields["x"][1],
        "channels": fields["x"][1][-1],
        "classes": classes,
        "vector": y_shape[0] if y_shape else 0,
        "names": names,
        "counts": {split: one["records"] for split, one in found.items()},
        "counts_by_class": by_class if classes else None,
        "range": [min(note["range"][0] for note in notes.values()), max(note["range"][1] for note in notes.values())],
        "hash": content_hash(directory, stage),
    }


def content_hash(directory: pathlib.Path, stage: str = "images") -> str:
    """A sha256, in hex, of all records of a store and the names of its classes; it does not depend on where they lie."""
    parts = {split: _manifest(directory / split, stage) for split in SPLITS}
    content = {split: [[e["name"], e["sha256"]] for e in one["shards"]] for split, one in parts.items()}
    return hashlib.sha256(json.dumps([content, parts["train"]["config"]["names"]]).encode()).hexdigest()


def _manifest(place: pathlib.Path, stage: str) -> dict[str, Any]:
    remedy = f"run --stage={stage}, and it is made again"
    return atomic.read_sealed(place / _MANIFEST, missing=f"run --stage={stage} first", damaged=remedy)

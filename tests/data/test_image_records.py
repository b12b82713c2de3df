"""The store of images gives back what was written, split the same on every machine, and names what is damaged."""

import hashlib

import numpy as np
import pytest

from tsdfm_jax.data import image_labels, image_records

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4, 4, 3)).astype(np.float32)
Y = (np.arange(60) % 3).astype(np.int32)
NAMES = ("ant", "bee", "cat")


def build(directory, y=Y, x=X, names=NAMES, **keys):
    train, heldout = image_labels.split(y, len(x), 0.2, 0)
    for split, rows in (("train", train), ("heldout", heldout)):
        image_records.write(directory, split, x[rows], None if y is None else y[rows], names=names, images_per_shard=16, **keys)
    return train, heldout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    return directory, *build(directory)


def test_a_store_gives_back_what_was_written(built):
    """Whole arrays, bit for bit, in the order of the split; the first ones are a prefix."""
    directory, train, heldout = built
    for split, rows in (("train", train), ("heldout", heldout)):
        found = image_records.arrays(directory, split)
        assert np.array_equal(found["x"], X[rows]) and np.array_equal(found["y"], Y[rows]) and found["y"].dtype == np.int32
    assert np.array_equal(image_records.arrays(directory, "heldout", 4)["x"], X[heldout[:4]])
    with pytest.raises(ValueError, match="13 records of .*heldout.* it has 12"):
        image_records.arrays(directory, "heldout", 13)


def test_what_it_says_of_itself(built):
    """Shape, classes, counts and range are those of the arrays."""
    about = image_records.about(built[0])
    assert (about["shape"], about["channels"], about["classes"], about["vector"]) == ([4, 4, 3], 3, 3, 0)
    assert about["names"] == list(NAMES) and about["counts"] == {"train": 48, "heldout": 12}
    assert about["counts_by_class"] == {"train": [16] * 3, "heldout": [4] * 3}
    assert about["range"] == [float(X.min()), float(X.max())]


@pytest.mark.parametrize("y, kind", [(None, None), (RNG.normal(size=(60, 7)).astype(np.float32), "vector")])
def test_without_classes(tmp_path, y, kind):
    """Without labels there is no y; vectors come back as they are."""
    train, _ = build(tmp_path, y, names=())
    batch, about = next(image_records.batches(tmp_path, "train", 8, 0)), image_records.about(tmp_path)
    assert ("y" in batch) == (y is not None) and about["classes"] == 0 and about["counts_by_class"] is None
    assert about["vector"] == (7 if kind else 0)
    if kind:
        assert np.array_equal(image_records.arrays(tmp_path, "train")["y"], y[train])


def test_batches_are_shared_and_resumed(built):
    """Two halves of every batch are the whole batch; one set back goes on as before; an epoch has each image once."""
    directory = built[0]
    whole = image_records.batches(directory, "train", 8, 5)
    halves = [image_records.batches(directory, "train", 8, 5, ((part,), 2)) for part in (0, 1)]
    seen, state = [], None
    for number in range(6):
        batch, parts = next(whole), [next(half) for half in halves]
        assert batch["x"].shape == (8, 4, 4, 3) and batch["x"].dtype == np.float32
        for field in ("x", "y"):
            assert np.array_equal(batch[field], np.concatenate([part[field] for part in parts]))
        seen.append(batch["x"])
        state = whole.get_state() if number == 2 else state
    again = image_records.batches(directory, "train", 8, 5)
    again.set_state(state)
    assert np.array_equal(next(again)["x"], seen[3]) and np.array_equal(next(again)["x"], seen[4])
    assert len(np.unique(np.concatenate(seen).reshape(48, -1), axis=0)) == 48


def test_the_same_arrays_give_the_same_bytes(built, tmp_path):
    """A second store is the same to the byte, and has the same hash; other pixels or names have another."""
    build(tmp_path / "a")
    for file in built[0].rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "a" / file.relative_to(built[0])).read_bytes()
    hashed = image_records.content_hash(built[0])
    assert image_records.content_hash(tmp_path / "a") == hashed
    build(tmp_path / "b", x=X + 1)
    build(tmp_path / "c", names=("ant", "bee", "dog"))
    assert len({hashed, *(image_records.content_hash(tmp_path / name) for name in "bc")}) == 3


def test_a_shorter_split_replaces_a_longer_one(tmp_path):
    """Shards that the new split does not have are gone; whole shards of the same provenance are kept as they are."""
    image_records.write(tmp_path, "train", X, Y, images_per_shard=10, provenance="one")
    kept = tmp_path / "train/shard-00000.array_record"
    when = kept.stat().st_mtime_ns
    image_records.write(tmp_path, "train", X[:20], Y[:20], images_per_shard=10, provenance="one")
    assert sorted(file.name for file in (tmp_path / "train").glob("*.array_record")) == [
        f"shard-0000{i}.array_record" for i in (0, 1)
    ]
    assert kept.stat().st_mtime_ns == when and np.array_equal(image_records.arrays(tmp_path, "train")["x"], X[:20])
    image_records.write(tmp_path, "train", X[20:40], Y[20:40], images_per_shard=10, provenance="two")
    assert np.array_equal(image_records.arrays(tmp_path, "train")["x"], X[20:40])


@pytest.mark.parametrize(
    "how, says", [("flipped", "corrupted"), ("missing", "missing"), ("manifest", "damaged"), ("none", "is missing")]
)
def test_damage_is_named_with_the_stage_that_mends_it(tmp_path, how, says):
    """A changed, missing or unfinished part is named, with the stage to run."""
    build(tmp_path, stage="autoencoder")
    shard, manifest = tmp_path / "train/shard-00001.array_record", tmp_path / "train/manifest.json"
    if how == "flipped":
        data = shard.read_bytes()
        shard.write_bytes(data[:999] + bytes([data[999] ^ 1]) + data[1000:])
    elif how == "missing":
        shard.unlink()
    elif how == "manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b"ant", b"and"))
    else:
        manifest.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"{says}.*--stage=autoencoder") as caught:
        image_records.arrays(tmp_path, "train", stage="autoencoder")
    assert "\n" not in str(caught.value)


def test_a_split_is_stratified_and_fixed():
    """Each class gives its share; the numbers are those that every machine draws; nothing is lost or in both."""
    y = np.repeat(np.arange(4), [100, 50, 10, 1])
    train, heldout = image_labels.split(y, len(y), 0.2, 3)
    assert np.bincount(y[heldout], minlength=4).tolist() == [20, 10, 2, 0] and np.bincount(y[train])[3] == 1
    assert sorted([*train, *heldout]) == list(range(161)) and not np.array_equal(np.sort(train), train)
    assert hashlib.sha256(heldout.astype("<i8").tobytes()).hexdigest()[:12] == "9a423b2a2deb"
    other = image_labels.split(y, len(y), 0.2, 4)[1]
    assert not np.array_equal(np.sort(other), np.sort(heldout))
    pairs = image_labels.split(np.repeat(np.arange(100), 2), 200, 0.165, 0)
    assert [len(part) for part in pairs] == [167, 33]
    for labels in (None, np.zeros((161, 2))):
        assert [len(part) for part in image_labels.split(labels, 161, 0.2, 3)] == [129, 32]


@pytest.mark.parametrize("y, count, holdout", [(np.arange(9), 9, 0.2), (None, 3, 0.01), (None, 1, 0.9)])
def test_a_split_with_nothing_held_out_is_refused(y, count, holdout):
    """A class for each image, a share that rounds to nothing, and one image leave nothing to hold out."""
    with pytest.raises(ValueError, match=rf"images\.holdout={holdout} leaves none of {count} images"):
        image_labels.split(y, count, holdout, 0)

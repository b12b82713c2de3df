"""A store returns what was written, or names the damaged file."""

import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import subprocess
import sys

import grain
import hypothesis
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import strategies

from tsdfm_jax.data import records

_SCHEMA = records.Schema(
    fields={"states": ("uint16", (5, 8)), "energy": ("float32", (4, 3)), "index": ("int8", (4,)), "t": ("float32", ())}
)
_COUNT = 10


def _arrays(number, count=_COUNT):
    rng = np.random.default_rng(number)
    return {
        "states": rng.integers(0, 65536, (count, 5, 8)).astype(np.int32),
        "energy": rng.normal(size=(count, 4, 3)).astype(np.float32),
        "index": rng.integers(-1, 3, (count, 4)).astype(np.int32),
        "t": rng.random(count).astype(np.float32),
    }


def _build(directory, shards=3, **kwargs):
    for number in range(shards):
        records.write_shard(directory, number, _SCHEMA, _arrays(number), **kwargs)
    return _seal(directory, shards, **kwargs)


def _seal(directory, shards=3, **kwargs):
    return records.seal(
        directory, _SCHEMA, seed=7, config={"k": 3}, sources={"teacher": "a", "compass": "b"}, shards=shards, **kwargs
    )


def _bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    _build(directory)
    return directory


def test_a_store_gives_back_what_was_written(built):
    """Every field of every record returns with its value, type and shape; the manifest has its sources."""
    store = records.open_store(built)
    assert len(store) == 3 * _COUNT and store.schema == _SCHEMA
    assert store.manifest["seed"] == 7 and store.manifest["sources"] == {"teacher": "a", "compass": "b"}
    for number in range(len(store)):
        expected, record = _arrays(number // _COUNT), store[number]
        assert list(record) == list(_SCHEMA.fields)
        for name, (kind, shape) in _SCHEMA.fields.items():
            assert record[name].dtype == kind and record[name].shape == shape
            assert np.array_equal(record[name], expected[name][number % _COUNT])
    with pytest.raises(IndexError, match="30"):
        store[30]


_KINDS = strategies.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32", "float64", "float16", "bool"])
_FIELDS = strategies.dictionaries(
    strategies.text("abcxyz_", min_size=1, max_size=4),
    strategies.tuples(_KINDS, strategies.lists(strategies.integers(1, 3), max_size=3).map(tuple)),
    min_size=1,
    max_size=4,
)


@hypothesis.given(fields=_FIELDS, count=strategies.integers(1, 5), seed=strategies.integers(0, 99))
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_schema_round_trips(tmp_path_factory, fields, count, seed):
    """For any schema, a batch of the unshuffled store equals the written arrays, bit for bit."""
    directory, rng = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    schema = records.Schema(fields=fields)
    arrays = {}
    for name, (kind, shape) in fields.items():
        size = count * int(np.prod(shape, dtype=int)) * np.dtype(kind).itemsize
        raw = rng.integers(0, 2, size) if kind == "bool" else rng.integers(0, 256, size)
        arrays[name] = np.frombuffer(raw.astype(np.uint8).tobytes(), kind).reshape(count, *shape)
    records.write_shard(directory, 0, schema, arrays)
    records.seal(directory, schema, seed=0, config={}, sources={}, shards=1)
    batch = next(records.open_store(directory).batches(count, 0, shuffle=False))
    for name in fields:
        assert batch[name].tobytes() == arrays[name].tobytes() and batch[name].dtype == arrays[name].dtype


def test_the_same_arrays_give_the_same_bytes(built, tmp_path):
    """A store built again, with shards in another order, is the same to the byte."""
    for number in (2, 0, 1):
        records.write_shard(tmp_path, number, _SCHEMA, dict(reversed(_arrays(number).items())))
    _seal(tmp_path)
    assert _bytes(tmp_path) == _bytes(built)


def test_every_flipped_byte_of_the_manifest_is_found(built, tmp_path):
    """Any changed, added or missing byte of the manifest is found."""
    path, data = tmp_path / "manifest.json", (built / "manifest.json").read_bytes()
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    damaged = [data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :] for i in range(len(data)) for flip in (1, 16)]
    damaged += [data + b"\n", data[:-1], data.replace(b" ", b"", 1), b"", b"[]", b"null"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest\.json.*--stage=trajectories"):
            records.open_store(tmp_path)
    path.write_bytes(data)
    records.open_store(tmp_path)


def test_flipped_bytes_of_a_shard_are_found(built, tmp_path):
    """Any flipped byte of a shard is found and the shard named; an open store refuses a changed record."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "shard-00001.array_record"
    data = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 60).tolist() + [0, len(data) - 1]:
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"shard-00001.*delete it and run --stage=trajectories again"):
            records.open_store(tmp_path)
        assert records.finished_shards(tmp_path, _SCHEMA) == {0, 2}
    path.write_bytes(data)
    store = records.open_store(tmp_path)
    position = data.index(_arrays(1)["states"][0].astype("<u2").tobytes())
    path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
    with pytest.raises(ValueError, match="delete it"):
        store[_COUNT]


def test_a_record_carries_its_own_checksum(built):
    """A record that does not match its checksum is refused, independent of the shard's checksums."""
    store = records.open_store(built)
    record = store._source[0]
    assert np.array_equal(store._unpack([record])["states"][0], _arrays(0)["states"][0])
    for position in range(len(record)):
        with pytest.raises(ValueError, match="checksum"):
            store._unpack([record[:position] + bytes([record[position] ^ 1]) + record[position + 1 :]])


@pytest.mark.parametrize("how", ["truncated", "missing", "foreign", "swapped"])
def test_damaged_shards_are_named(built, tmp_path, how):
    """A truncated, missing, foreign or swapped shard is named, with a remedy, in one line."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    first, second = tmp_path / "shard-00000.array_record", tmp_path / "shard-00001.array_record"
    if how == "truncated":
        second.write_bytes(second.read_bytes()[:-1])
    elif how == "missing":
        second.unlink()
    elif how == "foreign":
        shutil.copy(second, tmp_path / "shard-00009.array_record")
    else:
        shutil.copy(first, second)
    name = "shard-00009" if how == "foreign" else "shard-00001"
    with pytest.raises(ValueError, match=rf"{name}.*run --stage=trajectories again") as caught:
        records.open_store(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_deleted_shard_is_rebuilt_under_the_same_manifest(built, tmp_path):
    """The remedy in the error (delete the shard, write it again) restores the sealed store."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    (tmp_path / "shard-00001.array_record").unlink()
    assert records.finished_shards(tmp_path, _SCHEMA) == {0, 2}
    records.write_shard(tmp_path, 1, _SCHEMA, _arrays(1))
    records.open_store(tmp_path)
    assert _bytes(tmp_path) == _bytes(built)


def test_finished_shards_are_those_of_this_schema_and_provenance(tmp_path):
    """Shards of another provenance or schema do not count as finished."""
    records.write_shard(tmp_path, 0, _SCHEMA, _arrays(0), "one")
    records.write_shard(tmp_path, 1, _SCHEMA, _arrays(1), "two")
    assert records.finished_shards(tmp_path, _SCHEMA, "one") == {0}
    assert records.finished_shards(tmp_path, _SCHEMA, "two") == {1}
    narrower = records.Schema(fields=dict(list(_SCHEMA.fields.items())[:3]))
    assert records.finished_shards(tmp_path, narrower, "one") == set()
    assert records.finished_shards(tmp_path / "nowhere", _SCHEMA) == set()


def test_sealing_wants_exactly_its_shards(tmp_path):
    """A missing or surplus shard is named, and no manifest is written."""
    for number in (0, 2):
        records.write_shard(tmp_path, number, _SCHEMA, _arrays(number))
    with pytest.raises(ValueError, match="shard-00001.*unfinished"):
        _seal(tmp_path, 3)
    with pytest.raises(ValueError, match="shard-00002.*foreign"):
        _seal(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="--stage=trajectories first"):
        records.open_store(tmp_path)


def test_death_at_any_file_leaves_a_shard_whole_or_absent(built, tmp_path, monkeypatch):
    """After a kill at any renaming, finished shards are intact, and writing the rest gives the same store."""
    replace = os.replace

    class Killed(BaseException):
        pass

    for target in range(7):
        moves = []

        def dying(source, destination, target=target, moves=moves):
            moves.append(destination)
            if len(moves) - 1 == target:
                raise Killed
            replace(source, destination)

        shutil.rmtree(tmp_path)
        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            _build(tmp_path)
        monkeypatch.setattr(os, "replace", replace)
        (tmp_path / "shard-00002.array_record.tmp").write_bytes(b"torn")
        done = records.finished_shards(tmp_path, _SCHEMA)
        assert done == set(range(target // 2)) == {int(path.stem[-5:]) for path in tmp_path.glob("*.array_record")}
        for number in {0, 1, 2} - done:
            records.write_shard(tmp_path, number, _SCHEMA, _arrays(number))
        _seal(tmp_path)
        records.open_store(tmp_path)
        (tmp_path / "shard-00002.array_record.tmp").unlink(missing_ok=True)
        assert _bytes(tmp_path) == _bytes(built)


_SCRIPT = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import test_records
for number in range(10_000):
    test_records.records.write_shard(pathlib.Path(sys.argv[2]), number, test_records._SCHEMA, test_records._arrays(number))
    print(number, flush=True)
"""


def test_a_true_kill_in_the_middle_of_writing(tmp_path):
    """After SIGKILL every reported shard is intact, and no partial shard counts."""
    here = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(here), str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as process:
        reported = [int(process.stdout.readline()) for _ in range(8)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = records.finished_shards(tmp_path, _SCHEMA)
    assert set(reported) <= done == set(range(max(done) + 1))
    records.seal(tmp_path, _SCHEMA, seed=0, config={}, sources={}, shards=len(done))
    store = records.open_store(tmp_path)
    assert np.array_equal(store[len(store) - 1]["states"], _arrays(max(done))["states"][-1])


def test_values_that_do_not_fit_are_refused(tmp_path):
    """A token too large for its type, a wrong shape or field is named, and nothing is written."""
    bad = {
        "states": _arrays(0)["states"] + 1_000_000,
        "index": _arrays(0)["index"] + 500,
        "t": _arrays(0)["t"][:, None],
        "energy": _arrays(0)["energy"][:3],
    }
    for name, array in bad.items():
        with pytest.raises(ValueError, match=r"length" if name == "energy" else name):
            records.write_shard(tmp_path, 0, _SCHEMA, _arrays(0) | {name: array})
    with pytest.raises(ValueError, match="more"):
        records.write_shard(tmp_path, 0, _SCHEMA, _arrays(0) | {"more": np.zeros(_COUNT)})
    assert not list(tmp_path.iterdir())


def test_a_refusing_disk_leaves_no_shard(tmp_path):
    """When a write fails, OSError is raised and no file has a shard's name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            records.write_shard(tmp_path, 0, _SCHEMA, _arrays(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def _flat(batches):
    return [json.dumps({name: array.tolist() for name, array in batch.items()}) for batch in batches]


def test_an_epoch_is_a_permutation_and_the_next_is_another(built):
    """Each epoch holds every record once, in its own order."""
    store = records.open_store(built)
    alone = store.batches(6, 1)
    whole = [next(alone) for _ in range(10)]
    states = [np.concatenate([batch["states"] for batch in whole[start : start + 5]]) for start in (0, 5)]
    expected = np.sort(np.concatenate([_arrays(number)["states"] for number in range(3)]).reshape(30, -1), axis=0)
    assert all(np.array_equal(np.sort(epoch.reshape(30, -1), axis=0), expected) for epoch in states)
    assert not np.array_equal(*states)
    with pytest.raises(ValueError, match="batch 31 .* 30 records"):
        store.batches(31, 0)


@pytest.mark.parametrize(("batch", "parts"), [(6, [(0,), (1,)]), (8, [(0, 3), (1, 2)]), (30, [(0,), (1,), (2, 3, 4)])])
def test_a_batch_does_not_depend_on_who_reads_it(built, batch, parts):
    """Each process's share has its rows of the batch, also over epochs that the batch does not divide."""
    store = records.open_store(built)
    whole = store.batches(batch, 1)
    of = sum(map(len, parts))
    shares = [(store.batches(batch, 1, (mine, of)), mine) for mine in parts]
    for _ in range(12):
        want = next(whole)
        for share, mine in shares:
            for name, array in next(share).items():
                rows = want[name].reshape(of, batch // of, *array.shape[1:])[list(mine)]
                assert np.array_equal(rows.reshape(array.shape), array)


def test_an_iterator_resumes_to_the_bit(built, tmp_path):
    """From a state, in memory or through Orbax, the batches go on unchanged, across an epoch's end."""
    store = pickle.loads(pickle.dumps(records.open_store(built)))
    iterator = store.batches(4, 2)
    _ = [next(iterator) for _ in range(5)]
    state = iterator.get_state()
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = _flat(next(iterator) for _ in range(12))
        resumed, restored = store.batches(4, 2), store.batches(4, 2)
        resumed.set_state(state)
        manager.restore(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored)))
    assert _flat(next(resumed) for _ in range(12)) == expected
    assert _flat(next(restored) for _ in range(12)) == expected


def test_a_content_hash_follows_names_and_bytes(tmp_path):
    """The hash changes with any byte or name below a directory, not with the directory's place."""
    for name in "ab":
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("same")
    same = records.content_hash(tmp_path / "a")
    assert same == records.content_hash(tmp_path / "b") != records.content_hash(tmp_path / "a" / "deep" / "file")
    (tmp_path / "b" / "deep" / "file").rename(tmp_path / "b" / "file")
    (tmp_path / "a" / "deep" / "file").write_text("samf")
    assert len({same, records.content_hash(tmp_path / "a"), records.content_hash(tmp_path / "b")}) == 3
    with pytest.raises(FileNotFoundError, match="nowhere"):
        records.content_hash(tmp_path / "nowhere")

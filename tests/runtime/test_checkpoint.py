"""Checkpoints come back whole: on other meshes, after damage, never in part."""

import os

import flax.struct
import grain
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tsdfm_jax.runtime import checkpoint, mesh as mesh_lib, metrics as metrics_lib
from tsdfm_jax.storage import checksums


@flax.struct.dataclass
class State:
    params: dict

    @property
    def averaged(self):
        return self.params


def weights(value, mesh=None):
    mesh = mesh or mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=4, tensor=2))
    tree = {
        "blocks": {"kernel": np.random.default_rng(value).normal(size=(64, 512)).astype(np.float32)},
        "scale": np.full((8,), value, np.float32),
    }
    specs = {"blocks": {"kernel": PartitionSpec("fsdp", "tensor")}, "scale": PartitionSpec()}
    return jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, specs)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def numbers():
    return iter(grain.MapDataset.source(list(range(1000))).shuffle(3).to_iter_dataset())


def saved(directory, steps=(10, 20)):
    """Write and close a store with checkpoints at some steps; return the data iterator's state after each."""
    store, batches, following = checkpoint.Checkpoints(directory), numbers(), {}
    for step in steps:
        next(batches)
        store.save(step, State(params=weights(step)), batches, {"step": step})
        following[step] = batches.get_state()
    store.close()
    return following


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_what_is_saved_comes_back(tmp_path):
    """Restoring gives state, shardings, meta and data position of the newest checkpoint."""
    following = saved(tmp_path / "ckpt", (10, 20, 30))
    store, batches = checkpoint.Checkpoints(tmp_path / "ckpt"), numbers()
    state, meta = store.restore(shapes(State(params=weights(0))), batches)
    jax.tree.map(np.testing.assert_array_equal, state.params, weights(30))
    assert state.params["blocks"]["kernel"].sharding.spec == PartitionSpec("fsdp", "tensor")
    assert meta == {"step": 30} and batches.get_state() == following[30]
    assert store.steps() == [30, 20]
    store.close()


def test_saving_does_not_watch_the_arrays_change(tmp_path):
    """An update that donates the saved buffers at once does not change the checkpoint."""
    store, state = checkpoint.Checkpoints(tmp_path / "ckpt"), State(params=weights(1))
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    store.save(1, state, None, {})
    for _ in range(5):
        state = step(state)
    store.close()
    restored, _ = checkpoint.Checkpoints(tmp_path / "ckpt").restore(shapes(state), None)
    jax.tree.map(np.testing.assert_array_equal, restored.params, weights(1))


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "metadata"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, harm):
    """If the newest checkpoint is damaged, the one before is restored, the log says so, and training can save again."""
    directory = tmp_path / "ckpt"
    following = saved(directory)
    victim = largest_file(directory / "20" / "state")
    content = victim.read_bytes()
    if harm == "flip":
        middle = len(content) // 2
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif harm == "gone":
        victim.unlink()
    else:  # and without a seal, as if the process had died before it
        (directory / "20" / "state" / checksums.SEAL).unlink()
        (directory / "20" / "state" / "_METADATA").write_text("{")
    store, batches = checkpoint.Checkpoints(directory), numbers()
    with metrics_lib.Metrics(tmp_path, "teacher"):
        state, meta = store.restore(shapes(State(params=weights(0))), batches)
    jax.tree.map(np.testing.assert_array_equal, state.params, weights(10))
    assert meta == {"step": 10} and batches.get_state() == following[10]
    lines = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "ckpt/20" in line]
    assert len(lines) == 1 and "is damaged" in lines[0] and "going back" in lines[0]
    assert (tmp_path / "ckpt.damaged" / "20").is_dir()
    store.save(20, State(params=weights(21)), batches, {"step": 21})
    store.close()
    jax.tree.map(np.testing.assert_array_equal, store.restore_params(), weights(21))


def test_when_none_is_sound_nothing_is_thrown_away(tmp_path):
    """If all checkpoints are damaged, one line says so, and every file stays."""
    saved(tmp_path / "ckpt")
    for step in ("10", "20"):
        largest_file(tmp_path / "ckpt" / step / "state").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        checkpoint.Checkpoints(tmp_path / "ckpt").restore(shapes(State(params=weights(0))), None)
    assert {"10", "20"} <= {path.name for path in (tmp_path / "ckpt").iterdir()}


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    """A partial checkpoint of a killed process is ignored."""
    saved(tmp_path / "ckpt")
    os.rename(tmp_path / "ckpt" / "20", tmp_path / "ckpt" / "20.orbax-checkpoint-tmp")
    store = checkpoint.Checkpoints(tmp_path / "ckpt")
    assert store.latest() == 10
    jax.tree.map(np.testing.assert_array_equal, store.restore_params(), weights(10))


def test_weights_alone_move_to_another_mesh(tmp_path):
    """Weights saved on eight devices load on one, on two, and on eight in another arrangement."""
    saved(tmp_path / "ckpt")
    store = checkpoint.Checkpoints(tmp_path / "ckpt")
    assert len(store.restore_params()["scale"].sharding.device_set) == 1
    two = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:2])
    eight = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    across = NamedSharding(eight, PartitionSpec("tensor", ("data", "fsdp")))
    turned = {"blocks": {"kernel": across}, "scale": mesh_lib.replicated(eight)}
    for where in (two, turned):
        moved = store.restore_params(shapes(weights(0)), where)
        jax.tree.map(np.testing.assert_array_equal, moved, weights(20))
    assert moved["blocks"]["kernel"].sharding == turned["blocks"]["kernel"]


def test_another_model_is_not_damage(tmp_path):
    """A sound checkpoint with other shapes is refused by name, not set aside as damaged."""
    saved(tmp_path / "ckpt")
    other = State(params=weights(0) | {"scale": jax.numpy.zeros((9,))})
    with pytest.raises(ValueError, match=r"scale of shape \(8,\), but the config builds \(9,\)"):
        checkpoint.Checkpoints(tmp_path / "ckpt").restore(shapes(other), None)
    assert checkpoint.Checkpoints(tmp_path / "ckpt").latest() == 20


def test_nothing_there_is_one_line(tmp_path):
    """Looking for a checkpoint creates nothing; reading a missing one gives one line that says what to do."""
    store = checkpoint.Checkpoints(tmp_path / "teacher" / "ckpt")
    assert store.latest() is None and not (tmp_path / "teacher").exists()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        store.restore_params()
    with pytest.raises(ValueError, match="is unfinished: run --stage=teacher first"):
        checkpoint.load_params(tmp_path / "teacher" / "model")


def test_a_finished_model_knows_its_hash(tmp_path):
    """A saved model loads with the same arrays and hash on another mesh; a flipped bit is refused with the file's name."""
    directory = tmp_path / "teacher" / "model"
    checkpoint.save_params(directory, weights(1), {"stage": "teacher"})
    meta = checkpoint.save_params(directory, weights(2), {"stage": "teacher"})
    one = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
    params, loaded = checkpoint.load_params(directory, where=one)
    jax.tree.map(np.testing.assert_array_equal, params, weights(2))
    assert loaded == meta == {"stage": "teacher", "hash": checkpoint.tree_hash(params)}
    victim = largest_file(directory / "params")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged .*{victim.name}"):
        checkpoint.load_params(directory)


def test_the_hash_sees_names_types_shapes_and_values():
    """Names, types, shapes and values change the hash; the order of keys does not."""
    tree = {"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 3), np.float32)}
    base = checkpoint.tree_hash(tree)
    changed = [
        {"a": tree["a"], "c": tree["b"]},
        {"a": tree["a"].astype(np.int32), "b": tree["b"]},
        {"a": tree["a"], "b": tree["b"].reshape(3, 2)},
        {"a": tree["a"] + 1e-7, "b": tree["b"]},
    ]
    assert len({base, *map(checkpoint.tree_hash, changed)}) == 5
    assert checkpoint.tree_hash(dict(reversed(tree.items()))) == base
    assert checkpoint.tree_hash(jax.tree.map(jax.numpy.asarray, tree)) == base


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: No space left on device [x]")]
)
def test_a_full_disk_is_one_line(error):
    """Any library's full-disk error becomes one line with a remedy; other errors pass unchanged."""
    with pytest.raises(OSError, match="no room to write checkpoint 3: free some"), checksums.writing("checkpoint 3"):
        raise error
    with pytest.raises(KeyError), checksums.writing("checkpoint 3"):
        raise KeyError("other")


def test_a_disk_too_small_is_seen_before_writing(tmp_path, monkeypatch):
    """A disk too small is refused before writing, with needed and free space; existing checkpoints stay readable."""
    saved(tmp_path / "ckpt")
    monkeypatch.setattr(checksums.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 200_000}))
    store = checkpoint.Checkpoints(tmp_path / "ckpt")
    with pytest.raises(OSError, match=r"checkpoint 30 in .* \(0.3 MB; 0.2 MB are free\)"):
        store.save(30, State(params=weights(30)), None, {})
    with pytest.raises(OSError, match="no room to write model"):
        checkpoint.save_params(tmp_path / "model", weights(0) | {"more": jax.numpy.zeros((64, 512))}, {})
    jax.tree.map(np.testing.assert_array_equal, store.restore_params(), weights(20))


@pytest.mark.parametrize("place, stage", [
    ("student/run/teacher", "teacher"), ("run/student/shaped/round_1", "student"), ("run/judges/0", "judges"),
    ("run/judges/pilot", "judges"), ("judges/autoregressive", "autoregressive"),
])  # fmt: skip
def test_a_missing_model_names_its_stage(tmp_path, place, stage):
    """The stage that makes a model is named, however deep its folder is and whatever the folders above are called."""
    with pytest.raises(ValueError, match=f"is unfinished: run --stage={stage} first"):
        checkpoint.read_meta(tmp_path / place / "model")


def test_a_checkpoint_of_another_result_is_left_alone(tmp_path):
    """One whose identity is not that of what is being made counts as damaged; one without an identity is of an earlier version."""
    abstract = State(params=shapes(weights(0)))

    def save(identity, step):
        store = checkpoint.Checkpoints(tmp_path / "ckpt", identity=identity)
        store.save(step, State(params=weights(step)), None, {"step": step})
        store.close()

    def restored(identity):
        return checkpoint.Checkpoints(tmp_path / "ckpt", identity=identity).restore(abstract, None)[1]["step"]

    save("mine", 1)
    save("another's", 2)
    assert restored("another's") == 2 and restored(None) == 2 and restored("mine") == 1
    with pytest.raises(ValueError, match="of another run or network.*delete that directory"):
        restored("a third's")
    save(None, 3)
    assert restored("a third's") == 3

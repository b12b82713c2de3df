"""The mesh and its rules for axes: what is split, what is replicated, what is refused."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tsdfm_jax.runtime import mesh


def boxed(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, np.float32), names)


@pytest.mark.parametrize("sizes", [(-1, 1, 1), (2, -1, 2), (1, 1, 8), (2, 2, 2), (8, 1, -1)])
def test_a_mesh_uses_every_device(sizes):
    """The mesh holds every device once, with any axis as the one to fill."""
    built = mesh.make_mesh(mesh.MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    assert built.axis_names == ("data", "fsdp", "tensor")
    assert sorted(d.id for d in built.devices.flat) == sorted(d.id for d in jax.devices())


@pytest.mark.parametrize("sizes", [(3, 1, 1), (2, 1, 1), (-1, 5, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(sizes):
    """Sizes that do not use all devices, or cannot be filled, are named in a one-line error."""
    with pytest.raises(ValueError) as error:
        mesh.make_mesh(mesh.MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    assert "\n" not in str(error.value) and f"data={sizes[0]}" in str(error.value)


def test_names_decide_what_is_split():
    """Boxed leaves are split by their axis names, plain leaves are replicated, and an array uses a mesh axis once."""
    built = mesh.make_mesh(mesh.MeshConfig(data=2, fsdp=2, tensor=2))
    tree = {
        "kernel": boxed((3, 8, 16), "blocks", "embed", "mlp"),
        "activation": boxed((8, 4, 6), "batch", "length", "embed"),
        "plain": jax.ShapeDtypeStruct((8,), np.float32),
    }
    specs = jax.tree.map(lambda s: s.spec, mesh.shardings(built, tree))
    assert specs["kernel"] == PartitionSpec(None, "fsdp", "tensor")
    assert specs["activation"] == PartitionSpec(("data", "fsdp"), None, None)
    assert specs["plain"] == PartitionSpec()


def test_an_odd_vocabulary_is_split_by_width():
    """A table of 50,257 tokens, which no mesh divides, is split over its width by fsdp and tensor together."""
    built = mesh.make_mesh(mesh.MeshConfig(data=1, fsdp=2, tensor=4))
    place = mesh.shardings(built, {"embedding": boxed((50257, 64), "vocab", "table")})["embedding"]
    assert place.spec == PartitionSpec(None, ("fsdp", "tensor"))
    assert jax.device_put(np.zeros((50257, 64), np.float32), place).addressable_shards[0].data.shape == (50257, 8)


def test_what_does_not_divide_stays_whole():
    """Only a dimension that the mesh does not divide is replicated."""
    built = mesh.make_mesh(mesh.MeshConfig(data=1, fsdp=2, tensor=4))
    assert mesh.shardings(built, {"kernel": boxed((64, 30), "embed", "mlp")})["kernel"].spec == PartitionSpec("fsdp", None)


def test_an_axis_without_a_rule_is_an_error():
    """A misspelt logical axis is an error, not silently replicated."""
    built = mesh.make_mesh(mesh.MeshConfig())
    with pytest.raises(ValueError, match="'hedas'"):
        mesh.shardings(built, {"w": boxed((8, 8), "embed", "hedas")})


def test_a_batch_arrives_whole_and_split():
    """put_batch places an eighth of the unchanged rows on each device, also under a transfer guard."""
    built = mesh.make_mesh(mesh.MeshConfig(data=4, fsdp=2))
    rows = {"x_BL": np.arange(48, dtype=np.int32).reshape(16, 3), "t_B": np.linspace(0, 1, 16, dtype=np.float32)}
    with jax.transfer_guard("disallow"):
        batch = mesh.put_batch(built, rows)
    assert all(s.data.shape == (2, 3) for s in batch["x_BL"].addressable_shards)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(batch), rows)


@pytest.mark.parametrize("held, of, share", [
    (range(8), 8, ((0,), 1)),  # one process
    ((2, 3), 8, ((1,), 4)),  # one of four, with neighbouring devices
    ((0, 1, 4, 5), 16, ((0, 2), 8)),  # a 2 × 2 host in the corner of a 4 × 4 slice, laid out row by row
    ((1, 3), 4, ((1, 3), 4)),
    ((0, 1, 2), 4, ((0, 1, 2), 4)),  # no part larger than one row
])  # fmt: skip
def test_a_share_is_read_in_the_largest_parts(held, of, share):
    """A process's share of a batch is merged to the fewest equal parts with the same rows."""
    assert mesh.merged(list(held), of) == share
    parts, count = share
    assert [row for part in parts for row in range(part * of // count, (part + 1) * of // count)] == list(held)


def test_each_process_holds_the_rows_of_its_devices():
    """A process gets the rows of its devices, also if they are apart in the mesh or share rows over the tensor axis."""
    shuffled = np.array(jax.devices())[[0, 4, 1, 5, 2, 6, 3, 7]]
    built = mesh.make_mesh(mesh.MeshConfig(data=4, tensor=2), shuffled)
    rows = mesh.batch_sharding(built).devices_indices_map((4,))

    class Owned:  # devices 0 to 3 are process 0's, the others process 1's
        def __init__(self, device):
            self.process_index = device.id // 4

    owned = lambda process, of: mesh._parts({Owned(device): where for device, where in of.items()}, process)
    assert owned(0, rows) == owned(1, rows) == [0, 1, 2, 3]  # every row is on a device of each process
    built = mesh.make_mesh(mesh.MeshConfig(data=-1), shuffled)
    rows = mesh.batch_sharding(built).devices_indices_map((8,))
    assert (owned(0, rows), owned(1, rows)) == ([0, 2, 4, 6], [1, 3, 5, 7])


def test_rows_are_asked_for_where_they_are_held():
    """put_rows reads every part once, and gives the same array as put_whole."""
    built, whole, asked = mesh.make_mesh(mesh.MeshConfig(data=2, fsdp=2, tensor=2)), np.arange(24).reshape(8, 3), []

    def read(rows):
        asked.append(rows)
        return whole[rows]

    made, same = mesh.put_rows(built, read, 8), mesh.put_whole(built, whole)
    assert asked == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    np.testing.assert_array_equal(made, whole)
    assert made.sharding == same.sharding and [s.data.shape for s in made.addressable_shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(same, whole)


def test_a_batch_that_does_not_divide_names_key_batch_and_devices():
    """A batch that the devices do not divide gives an error with key, batch and number of devices."""
    built = mesh.make_mesh(mesh.MeshConfig(data=-1, tensor=2))
    mesh.require_divides(12, built, "teacher.batch")
    with pytest.raises(ValueError, match="teacher.batch=10 is not divisible by 4 devices"):
        mesh.require_divides(10, built, "teacher.batch")

"""The device mesh, the table from logical axes to mesh axes, and the sharding of every array of a tree."""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Logical axis of an array -> mesh axis that splits it. In order of precedence: within one array a mesh axis is used
# once, and the first row that asks for it gets it.
RULES = (
    ("batch", ("data", "fsdp")),  # examples: fsdp devices are data devices that also split the weights
    ("positions", "tensor"),  # L of arrays as wide as V: logits, posteriors, prefix sums; each row of V stays whole
    ("table", ("fsdp", "tensor")),  # the width D of [V, D] tables, embedding and head: gathered whole, just before use
    ("embed", "fsdp"),  # the width D of other weights: gathered layer by layer, just before use
    ("heads", "tensor"),  # attention heads, query/key/value and output projections
    ("mlp", "tensor"),  # the hidden width of the feed-forward block
    ("vocab", None),  # never split: a softmax or a prefix sum over a part would need its neighbours; V may be odd
    ("length", None),  # L of arrays as wide as D: attention is global
    ("cond", None),  # time and step-size conditioning: narrow
    ("features", None),  # norm weights, modulation outputs: narrow
    ("blocks", None),  # the scan over layers, which walks this axis one by one
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis has; -1 on one axis means all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(cfg, devices=None):
    """Arrange the devices (all of them by default) in a mesh of axes data, fsdp, tensor.

    Raises ValueError if the axes do not multiply to the number of devices.
    """
    devices = all_devices() if devices is None else list(devices)
    sizes = [getattr(cfg, axis) for axis in AXES]
    requested = " × ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {requested} makes no sense: use positive sizes, and -1 for at most one axis")
    product = math.prod(size for size in sizes if size != -1)
    if len(devices) % product or (-1 not in sizes and product != len(devices)):
        raise ValueError(f"mesh {requested} does not fit {len(devices)} devices: change mesh.*, or set one axis to -1")
    sizes = tuple(len(devices) // product if size == -1 else size for size in sizes)
    # Auto: the compiler places what the rules leave open. (jax.make_mesh's own default is Explicit.)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def all_devices():
    """The devices of all processes; ValueError, one line, where the platform that the user asks for is not here."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that one platform starts
        asked = jax.config.jax_platforms
        if not asked:
            raise
        reason = (str(error).splitlines() or ["no such device here"])[0] or "no such device here"
        raise ValueError(f"JAX_PLATFORMS={asked} gives no device ({reason}): leave it out, or set JAX_PLATFORMS=cpu") from None


def shardings(mesh, abstract):
    """Give every leaf of a tree its NamedSharding.

    Leaves are arrays or ShapeDtypeStructs: replicated, unless boxed by `nn.with_logical_partitioning`; then `RULES`
    decide. The result has the structure of the unboxed tree. Raises ValueError for an axis that has no rule.
    """

    def place(leaf):
        spec, shape = _spec(leaf), unbox(leaf).shape
        return NamedSharding(mesh, PartitionSpec(*(_axes_if_even(mesh, *axes_and_size) for axes_and_size in zip(spec, shape))))

    return jax.tree.map(place, abstract, is_leaf=is_box)


def abstract(mesh, init, *inputs):
    """The unboxed tree that `init(*inputs)` would make, as ShapeDtypeStructs that carry their shardings; nothing is run."""
    boxed = jax.eval_shape(init, *inputs)
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(place, unbox(boxed), shardings(mesh, boxed))


def read_parts(leaf, read):
    """Build the array of an abstract leaf in its sharding from `read(index)`; index is a tuple of slices with start and stop.

    The host holds no more than this array, a device only its own part; a part that several devices hold is read once.
    """
    part = functools.cache(lambda *spans: read(tuple(slice(*span) for span in spans)))
    spans = lambda index: (at.indices(size)[:2] for at, size in zip(index, leaf.shape))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: part(*spans(index)))


def is_box(leaf):
    """Whether a leaf is an array in a box that carries the names of its axes."""
    return isinstance(leaf, meta.AxisMetadata)


def unbox(tree):
    """Take the arrays of a tree out of their boxes."""
    # Not nn.unbox, which would constrain the value to its names under an ambient mesh, divisible or not.
    return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, tree, is_leaf=is_box)


def _spec(leaf):
    if not is_box(leaf):
        return PartitionSpec()
    rules = dict(RULES)
    for name in leaf.names:
        if name is not None and name not in rules:
            raise ValueError(f"logical axis '{name}' has no mesh axis: add a row for it to RULES in runtime/mesh.py")
    return nn.logical_to_mesh_axes(leaf.names, RULES)


def _axes_if_even(mesh, axes, size):
    """Keep a dimension whole if the mesh does not divide it: JAX rejects uneven shards at a jit's boundary."""
    names = (axes,) if isinstance(axes, str) else (axes or ())
    return axes if size % math.prod(mesh.shape[name] for name in names) == 0 else None


def gathered(template, tree):
    """Inside a jit: the arrays of a tree, whole on each device of the batch; those of `tensor` still share them.

    `template` is the tree as ShapeDtypeStructs with their shardings. A loop that reads the weights many times should not begin
    each turn with an exchange.
    """
    batch = dict(RULES)["batch"]

    def keep(axes):
        names = tuple(name for name in ((axes,) if isinstance(axes, str) else axes or ()) if name not in batch)
        return names or None

    place = lambda leaf: NamedSharding(leaf.sharding.mesh, PartitionSpec(*(keep(axes) for axes in leaf.sharding.spec)))
    return jax.tree.map(lambda leaf, x: jax.lax.with_sharding_constraint(x, place(leaf)), template, tree)


def batch_sharding(mesh):
    """Sharding of any array with the batch as its first axis."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh):
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_devices(mesh):
    """Number of parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in dict(RULES)["batch"])


def round_up(mesh, count):
    """The smallest batch that holds `count` and splits over the devices."""
    return -(-count // batch_devices(mesh)) * batch_devices(mesh)


def share(mesh):
    """The parts of every batch that this process feeds: (their numbers, the number of equal parts).

    A row keeps its place in the batch, whichever process reads it. Usually a process feeds one part. It feeds several if
    its devices do not follow one another in the mesh. Processes feed the same parts if a mesh axis other than the batch's
    spans them.
    """
    return merged(_own_parts(mesh), batch_devices(mesh))


def merged(own_parts, part_count):
    """The same share of a batch in the largest equal parts: parts 2 and 3 of 8 are part 1 of 4."""
    for size in range(part_count, 0, -1):
        parts = sorted({part // size for part in own_parts})
        if part_count % size == 0 and len(parts) * size == len(own_parts):
            return tuple(parts), part_count // size


def _own_parts(mesh):
    """The numbers of the parts (one per device along the batch) that this process's devices hold, in order."""
    return _parts(batch_sharding(mesh).devices_indices_map((batch_devices(mesh),)), jax.process_index())


def _parts(indices, process):
    return sorted({rows.start or 0 for device, (rows,) in indices.items() if device.process_index == process})


def put_batch(mesh, tree):
    """Make global arrays, split over the batch, from the rows that this process holds (numpy arrays, batch first)."""
    sharding, own_parts, part_count = batch_sharding(mesh), _own_parts(mesh), batch_devices(mesh)

    def put(x):
        x, size = np.asarray(x), len(x) // len(own_parts)
        rows = lambda index: x[(start := own_parts.index((index[0].start or 0) // size) * size) : start + size]
        return jax.make_array_from_callback((size * part_count, *x.shape[1:]), sharding, rows)

    # The one intended transfer of a training loop; across processes JAX's guard treats it as implicit.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(put, tree)


def put_whole(mesh, tree):
    """Make global arrays, split over the batch, from all their rows (numpy arrays that every process has)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree)


def put_rows(mesh, read, batch):
    """A global array of `batch` rows, split over the batch: `read(slice) -> numpy` is called only for this process's rows."""
    size = batch // batch_devices(mesh)
    return put_batch(mesh, np.concatenate([read(slice(part * size, (part + 1) * size)) for part in _own_parts(mesh)]))


def require_divides(batch, mesh, key):
    """Raise ValueError unless the global batch of config key `key` splits evenly over the devices of `mesh`."""
    parts = batch_devices(mesh)
    if batch < 1 or batch % parts:
        raise ValueError(
            f"{key}={batch} is not divisible by {parts} devices (mesh data={mesh.shape['data']} × "
            f"fsdp={mesh.shape['fsdp']}): take a multiple of {parts}"
        )


def require_positions(length, mesh, key):
    """Raise ValueError unless a window of `length`, config key `key`, splits evenly over the tensor axis of `mesh`."""
    parts = mesh.shape[dict(RULES)["positions"]]
    if length % parts:
        raise ValueError(f"{key}={length} is not divisible by mesh.tensor={parts}: take a multiple, or another mesh")


def jit(mesh, function, **options):
    """`jax.jit`, with the same options, of a function with networks that pin activations to `mesh`; see `constraints`."""

    @functools.wraps(function)
    def pinned(*arguments):
        with constraints(mesh):
            return function(*arguments)

    return jax.jit(pinned, **options)


def seed_word(seed):
    """A seed as `jax.random.key` reads it, its lower 32 bits, as an int32 that can be an argument of a jitted function."""
    return np.int64(seed).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeded:
    """A jitted function bound to its first argument, a seed; `__call__` and `lower` take the other arguments.

    As an argument the seed is not part of the program: programs that differ only in it are compiled once. The lowered
    program takes it first, as `seed_array`.
    """

    jitted: Any
    mesh: jax.sharding.Mesh
    seed: int

    @functools.cached_property
    def seed_array(self):
        """The seed on the mesh."""
        # Not before the first call: a mesh to compile for may have devices that this machine lacks.
        return jax.make_array_from_callback((), replicated(self.mesh), lambda _: seed_word(self.seed))

    def __call__(self, *inputs):
        return self.jitted(self.seed_array, *inputs)

    def lower(self, *inputs):
        return self.jitted.lower(jax.ShapeDtypeStruct((), np.int32, sharding=replicated(self.mesh)), *inputs)


def seeded(mesh, function, seed, *, in_shardings, donate_argnums=(), **options):
    """`jit` of `function(seed, *inputs)`, bound to its seed; the options are those of `jax.jit` for `inputs` alone."""
    places, donated = (replicated(mesh), *in_shardings), tuple(n + 1 for n in donate_argnums)
    return Seeded(jitted=jit(mesh, function, in_shardings=places, donate_argnums=donated, **options), mesh=mesh, seed=seed)


@contextlib.contextmanager
def constraints(mesh):
    """While the block is traced, make `nn.with_logical_constraint(x, names)` in a network pin activations to `mesh`.

    Outside the block such a line does nothing, so networks know no mesh. They should pin activations between layers, as
    ("batch", "length", "embed"): without that, XLA has silently compiled wrong gradients with data, fsdp and tensor all
    above one (openxla/xla#40034 describes such a case).
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(RULES):
        yield

"""The jitted programs of training and generation over several meshes, compiled once for all tests."""

import functools

import jax
import numpy as np

from tests import tiny
from tsdfm_jax.config import settings
from tsdfm_jax.distillation import generation, student_training, teacher_training, trajectory_records
from tsdfm_jax.evaluation import judging
from tsdfm_jax.flow import sampler
from tsdfm_jax.inference import sampling
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import trained

# All axes differ in size, so that a shape identifies its axes; V is odd, as GPT-2's is.
V, LENGTH, BATCH, WIDTH = 97, 24, 16, 32
MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (2, 1, 4), "mixed": (2, 2, 2)}
SMALL = {"data.length": LENGTH, "model.width": WIDTH, "model.heads": 4, "model.cond_width": 8, "shaping.candidates": 3}
SMALL |= {f"{name}.batch": BATCH for name in ("teacher", "student", "trajectories")}
SMALL |= {"student.target": "chain", "compass.score": "entropy", "trajectories.midpoints": 4, "compass.from_teacher": False}
SMALL |= {"trajectories.chain": "heun"}  # the shortest to compile


def config(**changes):
    """The tiny config with the sizes of SMALL."""
    c = tiny.get_config()
    with c.unlocked():
        c.update_from_flattened_dict(SMALL | changes)
    return c


@functools.cache
def mesh_of(name):
    """One of MESHES, over the first devices."""
    data, fsdp, tensor = MESHES[name]
    return meshes.make_mesh(meshes.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


def drawn(tree, mesh=None):
    """Random arrays in place of abstract ones, the same on every mesh; no array stays zero."""
    rng = np.random.default_rng(0)

    def draw(where, leaf):
        values = rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 8)
        values += where[-1].key == "scale"
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(draw, tree)


def network(c, mesh):
    """The teacher with random weights."""
    unread = trained.network(c, V, mesh, step_conditioned=False)
    return unread, drawn(unread.params)


def learner(c, name, mesh):
    """A `state.Learner` of teacher or student; the student starts from the random teacher."""
    if name == "teacher":
        return teacher_training.learner(c, V, mesh)
    net, params = network(c, mesh)
    return student_training.learner(c, V, mesh, trained.Network(apply=net.apply, params=params, hash=""), params)


def batch(c, name, number):
    """Rows of a batch, the same on every mesh."""
    rng = np.random.default_rng(number)
    x_1_BL = rng.integers(0, V, (BATCH, LENGTH), np.int32)
    if name == "teacher":
        return x_1_BL
    fields = trajectory_records.schema(c, settings.path(c, V), "chain", c.shaping.candidates).fields
    rows = {key: rng.integers(0, V, (BATCH, *shape)).astype(dtype) for key, (dtype, shape) in fields.items()}
    return {"chain": rows | {"t": np.linspace(0, 0.5, BATCH, dtype=np.float32), "h": np.full(BATCH, 0.5, np.float32)}}


def abstract(mesh, rows):
    """Rows as ShapeDtypeStructs, split over the batch axis."""
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=meshes.batch_sharding(mesh))
    return jax.tree.map(place, rows)


@functools.cache
def update(name, mesh_name):
    """(learner, compiled step) of teacher or student over a mesh."""
    c, mesh = config(), mesh_of(mesh_name)
    made = learner(c, name, mesh)
    return made, made.lower(abstract(mesh, batch(c, name, 0))).compile()


@functools.cache
def sampling_program(mesh_name):
    """The sampler's program over a mesh, compiled."""
    c, mesh = config(), mesh_of(mesh_name)
    net, params = network(c, mesh)
    cfg, path = settings.sampler_config(c, c.evaluate), settings.path(c, V)
    draw = sampling.Sampler(net.apply, path, mesh, LENGTH, BATCH, cfg)
    split = meshes.batch_sharding(mesh)
    key_B = jax.eval_shape(lambda: sampler.sample_keys(0, 0, BATCH))
    key_B = jax.ShapeDtypeStruct(key_B.shape, key_B.dtype, sharding=split)
    x_BL, number = abstract(mesh, batch(c, "teacher", 0)), jax.ShapeDtypeStruct((), np.int32)
    fixed_BL = jax.ShapeDtypeStruct(x_BL.shape, bool, sharding=split)
    return draw.advance.lower(params, key_B, x_BL, number, number, number, x_BL, fixed_BL).compile()


@functools.cache
def judging_program(mesh_name):
    """A judge's program over a mesh, compiled."""
    c, mesh = config(**{"judges.widths": (WIDTH,), "judges.blocks": (1,), "judges.heads": (4,)}), mesh_of(mesh_name)
    cfg = settings.judge(c, 0, V)
    params = meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg))
    return judging.program(cfg, 0, mesh).lower(params, abstract(mesh, batch(c, "teacher", 0))).compile()


@functools.cache
def generating_program(kind, mesh_name):
    """(weights, compiled program) that makes shaped records of a kind over a mesh."""
    c, mesh = config(), mesh_of(mesh_name)
    net, params = network(c, mesh)
    program = generation.program(c, V, mesh, kind, "shaped", net.apply)
    rows = abstract(mesh, batch(c, "teacher", 0))
    weights = {"generator": params, "compass": None}
    return weights, program.lower(weights, jax.ShapeDtypeStruct((), np.int32), rows).compile()

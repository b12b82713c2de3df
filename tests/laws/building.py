"""Random configurations, and a check that a config builds: every stage is traced, none compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from tsdfm_jax.config import settings, validation
from tsdfm_jax.distillation import compass_training, compasses, generation, student_training, teacher_training, trajectory_records
from tsdfm_jax.flow import sampler
from tsdfm_jax.models import causal, energy, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states
from tsdfm_jax.stages import compass

INF, NAN = float("inf"), float("nan")
V = 40  # the vocabulary size; no tokenizer is loaded
# Each network is traced once per input shape and type, for all callers.
NETWORKS = {transformer: transformer.apply, energy: energy.apply}
TRACED = {module: jax.jit(apply, static_argnums=0) for module, apply in NETWORKS.items()}


def config(changes):
    c = tiny.get_config()
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def pool(value):
    """Values of a key's type, and None; most of them are invalid."""
    if isinstance(value, bool):
        return [True, False, None]
    if isinstance(value, int):
        return [-3, -1, 0, 1, 2, 3, 7, 16, 24, 2**31 - 1, 2**31, 10**23, None, True, False]
    if isinstance(value, float):
        return [-1.0, 0.0, 1e-30, 0.5, 1.0, 1.5, 1e30, NAN, INF, -INF, None]
    if isinstance(value, str):
        return ["", "nonsense", "two\nlines", "▒", None]
    first = [(x, *value[1:]) for x in (-1, NAN, INF, "a", 1e30, 0, 2**31 - 1, None)]
    return [(), (0,), (-1,), ("a",), (None,), (NAN,), (1.5,), (True,), (1, 1, 1), (0,) * len(value), None, *first]


NEVER = {
    int: (-3, 2**63, None),
    float: (NAN, INF, -INF, 1e-300, 1e300, None),
    str: (None,),
    bool: (None,),
    tuple: (None, ("a",), (None,), (NAN,)),
}
LEAVES = list(validation.leaves(tiny.get_config()))

MODELS = [{}, {"model.dtype": "bfloat16", "model.dropout": 0.1}]
MODELS += [{"model.remat": "full", "model.unroll": 5, "model.heads": 1}]
MODELS += [{"model.remat": "dots", "model.cond_width": 1, "model.mlp_ratio": 1, "data.length": 1}]
MESHES = [(-1, 1, 1), (1, 1, 8), (2, 2, 2), (1, 8, 1), (4, -1, 2)]
WEIGHTS = [(1.0,) + (0.0,) * 10, (1e-30,) * 11]
CHOICES = {
    "flow.source": ["mask"],
    "flow.exponent": [0.5, 3.0],
    "flow.jump": ["cumulative", "euler"],
    "teacher.loss": ["kl"],
    "teacher.optimiser.accumulate": [2],
    "teacher.optimiser.schedule": ["constant", "linear"],
    "judges.dropout": [0.2],
    "judges.pilot": [1],
    "compass.kind": ["nce", "distilled"],
    "compass.score": ["entropy", "hidden"],
    "compass.prior": [0.5],
    "compass.blocks": [2],
    "compass.heads": [1, 16],
    "compass.from_teacher": [False],
    "compass.step_weights": WEIGHTS,
    "compass.steered_steps": [1],
    "shaping.candidates": [1, 2],
    "shaping.policy": ["token", "sequence_to_token"],
    "shaping.selection": ["boltzmann", "random", "worst"],
    "shaping.tau": [0.5, 0.9],
    "shaping.margin": [-1.0, 0.1],
    "shaping.span": [3],
    "shaping.coins": ["shared"],
    "shaping.chunk": [1, 2, 99],
    "trajectories.chain": ["classical", "heun"],
    "trajectories.midpoints": [1, 1024],
    "trajectories.shard": [48],
    "student.target": ["chain", "mixed"],
    "student.loss": ["kl"],
    "student.weights": [(0, 0, 1)],
    "student.evaluator": ["teacher"],
    "student.fresh": [0.5],
    "student.step_weights": WEIGHTS,
    "evaluate.top_p": [0.5],
}
# Each is valid only with some of the other choices.
UNEASY = [{"trajectories.midpoints": 3}, {"trajectories.batch": 8, "trajectories.shard": 24}, {"trajectories.shard": 24}]
UNEASY += [{"compass.blocks": 3}, {"compass.width": 48}, {"teacher.optimiser.accumulate": 4}, {"mesh.tensor": 4}]
UNEASY += [{"student.step_weights": (0.0,) * 10 + (1,)}, {"teacher.batch": 24}, {"model.width": 20}]


def drawn(seed):
    """Random changes to about half of CHOICES, a model and a mesh; in a third of the configs one more that may be invalid."""
    rng = np.random.default_rng(seed)
    pick = lambda values: values[rng.integers(len(values))]
    changes = {key: pick(values) for key, values in CHOICES.items() if rng.random() < 0.5}
    changes |= pick(MODELS) | dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), pick(MESHES)))
    bad = {key: value for key, default in [pick(LEAVES)] for value in [pick(pool(default))]}
    return changes | pick([{}, {}, {}, {}, pick(UNEASY), bad])


def abstract(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)


def keys(count):
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))


@functools.cache
def init(make, cfg, *length):
    """A network's abstract weights, boxed."""
    return jax.eval_shape(lambda: make(jax.random.key(0), cfg, *length))


def scalar(loss, params, *more):
    """Trace a stage's loss; assert that it and each of its parts is one float32 number."""
    loss, parts = jax.eval_shape(loss, jax.eval_shape(lambda: jax.random.key(0)), meshes.unbox(params), *more)
    assert all(a.shape == () and a.dtype == np.float32 for a in (loss, *parts.values()))


def update(section, mesh, boxed, loss, batch):
    """Trace one update of a training stage: gradients of all microbatches, optimiser and average."""
    cfg = settings.optimiser(section)
    optimiser = states.make_optimiser(cfg)
    zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), boxed)
    state = states.abstract(zeros, optimiser, mesh, ema=True)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = states.make_step(loss, optimiser, cfg, mesh, shardings, 0).func
    after, _ = jax.eval_shape(step, None, state, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def windows(c, batch):
    return abstract(np.int32, batch, c.data.length)


def judges_build(c):
    """Trace every judge's weights, and the pilot's loss."""
    for name in (*range(len(c.judges.widths)), "pilot"):
        cfg = settings.judge(c, name, V)
        boxed = init(causal.init, cfg)
    loss = lambda key, params, x_BL: (causal.token_nll(cfg, params, x_BL, 1, key).mean(), {})
    scalar(loss, boxed, windows(c, c.judges.batch))


def teacher_builds(c, mesh, path, cfg, boxed):
    """Trace the teacher's update over the mesh, with its microbatches."""
    apply = lambda p, x, t, dropout_key: NETWORKS[transformer](cfg, p, x, t, None, dropout_key)
    loss = functools.partial(teacher_training.path_loss, apply, path, c.teacher.loss)
    update(c.teacher, mesh, boxed, loss, windows(c, c.teacher.batch))


def compass_builds(c, path, cfg, boxed):
    """Trace the compass's weights and loss, if it has weights, and a steered sample; return the abstract weights."""
    apply, weights = functools.partial(transformer.apply, cfg), None
    if c.compass.kind != "lookahead":
        light = settings.compass_network(c, path.vocab)
        own = init(energy.init, light, c.data.length)
        loss = functools.partial(compass_training.LOSSES[c.compass.kind], c, path, light, apply)
        scalar(loss, own, windows(c, c.compass.batch), meshes.unbox(boxed))
        weights = meshes.unbox(own)
        if c.compass.from_teacher:
            jax.eval_shape(energy.overlay, own, meshes.unbox(boxed))
    weights = {"teacher": meshes.unbox(boxed), "compass": weights}
    steer = functools.partial(compass.steer, c, path, apply, compasses.make(c, path), settings.shaped(c))
    assert jax.eval_shape(steer, abstract(np.int32), weights, abstract(np.int32)).shape == (c.compass.batch, c.data.length)
    return weights["compass"]


def trajectories_build(c, path, cfg, boxed, weights):
    """Trace every kind of record that the target needs; shapes match the schema. Returns a student's abstract batch."""
    b, batch = c.trajectories.batch, {}
    for kind in settings.TARGETS[c.student.target]:
        make = generation.KINDS[kind](
            c, path, functools.partial(transformer.apply, cfg), compasses.make(c, path), settings.shaped(c)
        )
        found = jax.eval_shape(make, {"generator": meshes.unbox(boxed), "compass": weights}, keys(b), windows(c, b))
        schema = trajectory_records.schema(c, path, kind, c.shaping.candidates)
        assert {name: (b, *shape) for name, (_, shape) in schema.fields.items()} == {n: a.shape for n, a in found.items()}
        assert schema.dtype.itemsize > 0
        batch[kind] = {name: abstract(dtype, c.student.batch, *shape) for name, (dtype, shape) in schema.fields.items()}
    return batch


def student_builds(c, path, cfg, boxed, batch):
    """Trace the student's loss on those records, with its configured evaluator."""
    cfg_s = settings.network(c, path.vocab, step_conditioned=True)
    own = init(transformer.init, cfg_s, c.data.length)
    if c.student.target == "mixed":
        batch = batch | {"data": windows(c, c.student.batch)}
    jax.eval_shape(transformer.overlay, own, meshes.unbox(boxed))
    loss = functools.partial(student_training.loss, c, path, cfg_s, functools.partial(transformer.apply, cfg))
    scalar(loss, own, batch, meshes.unbox(boxed), meshes.unbox(own))


def texts_build(c, path, cfg, boxed):
    """Trace the sampler with the settings of `evaluate` and of `sample`."""
    b = c.evaluate.batch
    for section in (c.evaluate, c.sample):
        posterior = lambda params: lambda x_BL, t_B, h_B: transformer.apply(cfg, params, x_BL, t_B, h_B)
        draw = lambda params, key_B, given_BL, fixed_BL: sampler.sample(
            key_B, path, posterior(params), jnp.int32(3), given_BL, fixed_BL, settings.sampler_config(c, section)
        )
        shape = (b, c.data.length)
        found = jax.eval_shape(draw, meshes.unbox(boxed), keys(b), abstract(np.int32, *shape), abstract(bool, *shape))
        assert found.shape == shape and found.dtype == np.int32


def builds(c):
    """Trace every stage of a config: networks, updates, generation and sampling; nothing is compiled."""
    mesh, path = settings.mesh(c), settings.path(c, V)
    cfg = settings.network(c, path.vocab)
    boxed = init(transformer.init, cfg, c.data.length)
    judges_build(c)
    teacher_builds(c, mesh, path, cfg, boxed)
    weights = compass_builds(c, path, cfg, boxed)
    student_builds(c, path, cfg, boxed, trajectories_build(c, path, cfg, boxed, weights))
    texts_build(c, path, cfg, boxed)

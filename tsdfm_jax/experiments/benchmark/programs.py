"""The benchmark's programs: those of the stages, and beside each the bare network passes that it consists of.

Every group is a function from a `Shape` to a list of `clock.Program`, built as the stages build them.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tsdfm_jax.config import settings
from tsdfm_jax.distillation import compass_training, generation, student_training, teacher_training, trajectory_records
from tsdfm_jax.experiments.benchmark.clock import Program, seconds
from tsdfm_jax.experiments.planning import aot_compile, model_flops
from tsdfm_jax.flow import chain, sampler
from tsdfm_jax.inference import sampling
from tsdfm_jax.models import energy
from tsdfm_jax.runtime import mesh as meshes, state as states
from tsdfm_jax.workspace import trained

CANDIDATES = (1, 4, 8, 16)
STEPS = (1, 8, 1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A config to time.

    Attributes:
      config, mesh: config and mesh of the programs.
      batch: B of every program.
      longest: most seconds that one run of the sampler may take.
    """

    config: ConfigDict
    mesh: Any
    batch: int
    longest: float

    @property
    def text_vocab(self):
        """Tokens of the text's vocabulary."""
        return self.config.tokenizer.vocab_size

    @property
    def vocab(self):
        """V: tokens of the path's vocabulary."""
        return settings.path(self.config, self.text_vocab).vocab

    @property
    def batch_tokens(self):
        """Tokens of one batch."""
        return self.batch * self.config.data.length

    def with_changes(self, **changes):
        """A copy with other config values; keys have two underscores for each dot."""
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        return dataclasses.replace(self, config=aot_compile.with_settings(self.config, keys))

    def flops(self, network, passes=1):
        """FLOPs of forward passes over a batch by the teacher, the student or the compass."""
        return passes * self.batch * model_flops.window(self.config, self.text_vocab, network)


def filled(abstract, seed=0):
    """A tree of small normal numbers, so that logits differ; a freshly initialised network's are all equal."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    leaves = enumerate(jax.tree.leaves(abstract))
    make_leaves = lambda: [
        0.02 * jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), a.shape, a.dtype) for i, a in leaves
    ]
    return jax.jit(lambda: jax.tree.unflatten(jax.tree.structure(abstract), make_leaves()), out_shardings=shardings)()


def abstract(tree):
    """Abstract arrays: shapes, dtypes and shardings of a tree."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)


def network(shape, name):
    """(apply, weights) of the teacher, the student or the compass; the compass ignores the step size."""
    if name != "compass":
        model = trained.network(shape.config, shape.text_vocab, shape.mesh, step_conditioned=name == "student")
        return model.apply, filled(model.params)
    cfg = settings.compass_network(shape.config, shape.vocab)
    abstract_params = meshes.abstract(shape.mesh, lambda: energy.init(jax.random.key(0), cfg, shape.config.data.length))
    return lambda params, x_BL, t_B, h_B: energy.apply(cfg, params, x_BL, t_B), filled(abstract_params)


def inputs(shape, rows=None):
    """Random (x_BL, t_B, h_B) over the mesh."""
    rng, rows = np.random.default_rng(0), rows or shape.batch
    x_BL = rng.integers(0, shape.text_vocab, (rows, shape.config.data.length), dtype=np.int32)
    t_B, h_B = rng.uniform(size=rows).astype(np.float32), np.full(rows, 0.125, np.float32)
    return meshes.put_whole(shape.mesh, (x_BL, t_B, h_B))


def forward(shape, name, apply, params, rows=None):
    """One bare forward pass."""
    jitted, arrays = meshes.jit(shape.mesh, apply), inputs(shape, rows)
    run, lower = functools.partial(jitted, params, *arrays), functools.partial(jitted.lower, params, *arrays)
    tokens = (rows or shape.batch) * shape.config.data.length
    flops = shape.flops(name) * tokens / shape.batch_tokens
    return Program(_forward(name, shape, rows), run, lower, tokens=tokens, flops=flops)


def _forward(name, shape, rows=None):
    return f"{name} forward" + (f", {rows} rows" if rows not in (None, shape.batch) else "")


def forward_backward(shape, name, apply, params):
    """One bare forward and backward pass: the outputs, and the weights' gradient for given output gradients."""

    def passes(params, out_bar, x_BL, t_B, h_B):
        out, pullback = jax.vjp(lambda params: apply(params, x_BL, t_B, h_B), params)
        return out, pullback(out_bar)[0]

    arrays, jitted = inputs(shape), meshes.jit(shape.mesh, passes)
    output_specs = jax.eval_shape(meshes.jit(shape.mesh, apply), params, *arrays)
    sharding = meshes.batch_sharding(shape.mesh)
    output_specs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), output_specs)
    arguments = (params, filled(output_specs, 1), *arrays)
    run, lower = functools.partial(jitted, *arguments), functools.partial(jitted.lower, *arguments)
    return Program(f"{name} forward and backward", run, lower, tokens=shape.batch_tokens, flops=shape.flops(name, 3))


def update(shape, name, learner, batch, bare, flops):
    """One training step; each run passes its state to the next."""
    state = [learner.create()]

    def run():
        state[0], figures = learner.step(state[0], batch)
        return state[0], figures

    return Program(f"{name} step", run, lambda: learner.lower(batch), bare, shape.batch_tokens, flops)


def optimiser_only(shape, name, section):
    """The optimiser's part of an update alone, from a given gradient."""
    _, params = network(shape, name)
    cfg = settings.optimiser(section)
    optimiser = states.make_optimiser(cfg)
    state, gradient = [states.create(lambda params: params, optimiser, shape.mesh, ema=True, given=(params,))[0]], filled(params, 2)
    jitted = jax.jit(functools.partial(states.descend, optimiser, cfg.ema), donate_argnums=0)

    def run():
        state[0], norm = jitted(state[0], gradient)
        return state[0], norm

    return Program(f"{name} optimiser alone", run, lambda: jitted.lower(state[0], gradient))


def of_teacher(shape):
    """The teacher's update."""
    apply, params = network(shape, "teacher")
    bare = forward_backward(shape, "teacher", apply, params)
    learner, (x_BL, _, _) = teacher_training.learner(shape.config, shape.text_vocab, shape.mesh), inputs(shape)
    step = update(shape, "teacher", learner, x_BL, {bare.name: 1}, bare.flops)
    return [bare, optimiser_only(shape, "teacher", shape.config.teacher), step]


def of_compass(shape):
    """The update of a light compass by noise contrast; it includes the teacher's chain."""
    shape = shape.with_changes(compass__kind="nce")
    apply, params = network(shape, "compass")
    compass_pass, (teacher_apply, teacher_params) = forward_backward(shape, "compass", apply, params), network(shape, "teacher")
    passes = [compass_pass, forward(shape, "teacher", teacher_apply, teacher_params)]
    links = len(chain.CHAINS[shape.config.trajectories.chain].links)
    bare = {passes[0].name: 2, passes[1].name: links}
    learner = compass_training.learner(
        shape.config, shape.text_vocab, shape.mesh, trained.Network(apply=teacher_apply, params=teacher_params, hash="")
    )
    x_BL, _, _ = inputs(shape)
    return [*passes, update(shape, "compass", learner, x_BL, bare, 2 * compass_pass.flops + links * passes[1].flops)]


def of_trajectories(shape):
    """Whole trajectories of two jumps, with the look-ahead and a light compass, for several K."""
    shape = shape.with_changes(trajectories__midpoints=2)
    apply, weights = network(shape, "teacher")
    light_shape = shape.with_changes(compass__kind="nce")
    scorers = {
        "teacher": (shape.with_changes(compass__kind="lookahead"), apply, weights),
        "compass": (light_shape, *network(light_shape, "compass")),
    }
    programs = {}
    for name, (scorer_shape, score, params) in scorers.items():
        for k in CANDIDATES if name == "teacher" else CANDIDATES[1:]:
            changed, passes = scorer_shape.with_changes(shaping__candidates=k), {"teacher forward": 2.0}
            chunk = min(changed.config.shaping.chunk or k, k)
            if k > 1:
                rows = chunk * shape.batch
                programs.setdefault(_forward(name, shape, rows), forward(shape, name, score, params, rows))
                passes[_forward(name, shape, rows)] = passes.get(_forward(name, shape, rows), 0) + 2.0 * k / chunk
            programs.setdefault("teacher forward", forward(shape, "teacher", apply, weights))
            program = trajectory_program(
                changed, {"generator": weights, "compass": params if name == "compass" else None}, apply, name, k, passes
            )
            programs[program.name] = program
    return list(programs.values())


def trajectory_program(shape, weights, apply, scorer, k, passes):
    """A batch of whole trajectories."""
    jitted = generation.program(shape.config, shape.text_vocab, shape.mesh, "whole", "shaped", apply)
    x_BL, _, _ = inputs(shape)
    arguments = (weights, np.int32(0), x_BL)
    name = (
        "trajectories, blind"
        if k == 1
        else f"trajectories, K = {k}, by {'look-ahead' if scorer == 'teacher' else 'a light compass'}"
    )
    flops = shape.flops("teacher", 2) + (2 * k * shape.flops(scorer) if k > 1 else 0)
    run, lower = functools.partial(jitted, *arguments), functools.partial(jitted.lower, *arguments)
    return Program(name, run, lower, passes, shape.batch_tokens, flops)


def of_student(shape):
    """The student's update with target `endpoint` and with target `chain`."""
    apply, params = network(shape, "student")
    passes = [forward_backward(shape, "student", apply, params), forward(shape, "student", apply, params)]
    teacher = trained.Network(apply=network(shape, "teacher")[0], params=network(shape, "teacher")[1], hash="")
    programs = [*passes, optimiser_only(shape, "student", shape.config.student)]
    for target, evaluations in (("endpoint", 0), ("chain", 1 + len(chain.CHAINS[shape.config.trajectories.chain].links))):
        target_shape = shape.with_changes(student__target=target)
        learner = student_training.learner(target_shape.config, target_shape.text_vocab, target_shape.mesh, teacher, teacher.params)
        bare = {passes[0].name: 1, passes[1].name: evaluations}
        flops = passes[0].flops + evaluations * passes[1].flops
        programs.append(update(target_shape, f"student, {target},", learner, records(target_shape), bare, flops))
    return programs


def records(shape):
    """A batch of random records for the student's target."""
    path, rng, batch = settings.path(shape.config, shape.text_vocab), np.random.default_rng(0), {}
    for kind in settings.TARGETS[shape.config.student.target]:
        schema = trajectory_records.schema(shape.config, path, kind, shape.config.shaping.candidates)
        batch[kind] = {}
        for name in student_training.learned_fields(schema):
            dtype, size = schema.fields[name]
            values = (
                rng.integers(0, shape.text_vocab, (shape.batch, *size))
                if dtype != "float32"
                else np.full((shape.batch, *size), 0.25)
            )
            batch[kind][name] = values.astype(dtype)
    return meshes.put_whole(shape.mesh, batch)


def of_sampler(shape):
    """Sampling in few and in many steps. Where all steps would take too long, only the calls that fit in `longest` run."""
    apply, params = network(shape, "student")
    bare = forward(shape, "student", apply, params)
    path, cfg = settings.path(shape.config, shape.text_vocab), sampler.SamplerConfig(jump=shape.config.flow.jump)
    draw = sampling.Sampler(apply, path, shape.mesh, shape.config.data.length, shape.batch, cfg)
    jax.block_until_ready(bare.run())
    pass_seconds = float(np.median([seconds(bare.run) for _ in range(3)]))
    return [bare, *(sampling_program(shape, draw, params, n, bare, pass_seconds) for n in STEPS)]


def sampling_program(shape, draw, params, steps, bare, pass_seconds):
    """Sample a batch in `steps` steps, with no more calls than `longest` allows; a pass takes `pass_seconds`."""
    length, most_steps = shape.config.data.length, max(int(shape.longest / pass_seconds), 1)
    given, fixed = np.zeros((shape.batch, length), np.int32), np.zeros((shape.batch, length), bool)
    given, fixed = meshes.put_whole(shape.mesh, (given, fixed))
    key_B = jax.jit(lambda: sampler.sample_keys(0, 0, shape.batch), out_shardings=meshes.batch_sharding(shape.mesh))()
    arguments = lambda x, i, last: (params, key_B, x, np.int32(i), np.int32(last), np.int32(steps), given, fixed)
    start = lambda: meshes.put_whole(shape.mesh, np.zeros((shape.batch, length), np.int32))
    done_steps = steps if steps <= most_steps else max(most_steps // sampling.STEPS_A_CALL, 1) * sampling.STEPS_A_CALL

    def run():
        x_BL = start()
        for i in range(0, done_steps, sampling.STEPS_A_CALL):
            x_BL = jax.block_until_ready(draw.advance(*arguments(x_BL, i, min(i + sampling.STEPS_A_CALL, done_steps))))
        return x_BL

    name = (
        f"sampler, {steps:,} step{'s' * (steps > 1)}"
        if done_steps == steps
        else f"sampler, the first {done_steps} of {steps:,} steps"
    )
    lower = lambda: draw.advance.lower(*arguments(start(), 0, 1))
    return Program(
        name, run, lower, {bare.name: done_steps}, shape.batch_tokens if done_steps == steps else 0, done_steps * bare.flops
    )

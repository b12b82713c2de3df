"""The benchmark's groups: the stages' programs, and their parts outside the networks: draws, losses, reading, start."""

import functools
import itertools
import pathlib
import subprocess
import sys
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import settings, validation
from tsdfm_jax.data import records, shards
from tsdfm_jax.distillation import generation, student_training, trajectory_records
from tsdfm_jax.experiments.benchmark import plain, programs
from tsdfm_jax.experiments.benchmark.clock import Program
from tsdfm_jax.experiments.planning import aot_compile
from tsdfm_jax.flow import jump, losses, path as paths
from tsdfm_jax.runtime import mesh as meshes

DRAWS = (1, 8, 32)
ROWS = 4096  # windows in the shard to read
SCORES = ("entropy", "negative_log_posterior")  # not losses: timed without a gradient
SHARDS = 4  # shards that the stage's loop writes, of two batches each


def prepared(config, asked):
    """(the programs.Shape to time, its sizes for the record) of a config with the sizes that are asked for."""
    batch = asked["batch"]
    changes = {"data.length": asked["length"] or config.data.length, "model.dtype": asked["dtype"] or config.model.dtype}
    changes |= {"evaluate.judge_batch": 0, "trajectories.shard": batch}
    changes |= {f"{name}.batch": batch for name in ("teacher", "compass", "student", "judges", "trajectories", "evaluate")}
    changes |= {f"{name}.optimiser.accumulate": 1 for name in ("teacher", "compass", "student", "judges")}
    changes |= {f"{name}.heldout": batch for name in ("teacher", "compass")}
    config = aot_compile.with_settings(config, changes)
    validation.validate(config)
    shape = programs.Shape(config=config, mesh=settings.mesh(config), batch=batch, longest=asked["longest"])
    sizes = {"batch": batch, "length": config.data.length, "dtype": config.model.dtype}
    return shape, sizes | {"vocab": shape.vocab, "remat": config.model.remat}


def of_draws(shape):
    """K candidates of one posterior, by prefix sums and by K categorical draws."""
    apply, params = programs.network(shape, "teacher")
    bare = programs.forward(shape, "teacher", apply, params)
    logits_BLV = bare.run()
    key_B = jax.jit(lambda: jax.random.split(jax.random.key(0), shape.batch), out_shardings=meshes.batch_sharding(shape.mesh))()
    path, kind = settings.path(shape.config, shape.text_vocab), shape.config.flow.jump
    x_BL, t_B, h_B = programs.inputs(shape)

    def by_sums(k):
        def candidates(key_B, logits_BLV, x_BL, t_B, h_B):
            move = jump.prepare(path, kind, logits_BLV, x_BL, t_B * 0.5, h_B)
            return jax.lax.map(lambda i: jump.land(paths.fold(key_B, i), move)[0], jnp.arange(k), batch_size=k)

        return candidates

    def by_categorical(k):
        draw = jax.vmap(lambda key, logits_LV: jax.random.categorical(key, logits_LV))
        return lambda key_B, logits_BLV, *_: jax.lax.map(lambda i: draw(paths.fold(key_B, i), logits_BLV), jnp.arange(k))

    group, arguments = [bare], (key_B, logits_BLV, x_BL, t_B, h_B)
    for k in DRAWS:
        for name, make_candidates in (("by prefix sums", by_sums), ("by jax.random.categorical", by_categorical)):
            jitted = meshes.jit(shape.mesh, make_candidates(k))
            run, lower = (lambda jitted=jitted: jitted(*arguments)), (lambda jitted=jitted: jitted.lower(*arguments))
            group.append(Program(f"{k} candidates, {name}", run, lower, {bare.name: 1}, k * shape.batch_tokens))
    return group


def of_reading(shape):
    """Read a batch of windows and a batch of records as training does, beside one forward and backward pass."""
    apply, params = programs.network(shape, "teacher")
    bare = programs.forward_backward(shape, "teacher", apply, params)
    rng, length, folder = np.random.default_rng(0), shape.config.data.length, tempfile.TemporaryDirectory()
    path, root = settings.path(shape.config, shape.text_vocab), pathlib.Path(folder.name)
    rows = rng.integers(0, shape.text_vocab, (ROWS, length)).astype("uint16" if path.vocab <= 65536 else "int32")
    entry = shards.write(root / shards.name("windows", 0), (row.tobytes() for row in rows))
    decode = lambda chunks: np.frombuffer(b"".join(chunks), rows.dtype).reshape(-1, length).astype(np.int32)
    options = dict(
        batch=shape.batch, seed=0, share=((0,), 1), shuffle=True, repeat=True, description="windows", remedy="run it again"
    )
    window_batches = shards.batches(root, [entry], decode, **options)
    schema = trajectory_records.schema(shape.config, path, "whole", shape.config.shaping.candidates)
    fields = {name: np.zeros((ROWS // 4, *size), dtype) for name, (dtype, size) in schema.fields.items()}
    records.write_shard(root / "records", 0, schema, fields, "")
    records.seal(root / "records", schema, seed=0, config={}, sources={}, shards=1)
    record_batches = records.open_store(root / "records").batches(shape.batch, 0, fields=student_training.learned_fields(schema))

    def read(batches):
        return lambda folder=folder: meshes.put_batch(shape.mesh, next(batches))  # keeps the folder alive

    program_options = dict(bare={bare.name: 1}, tokens=shape.batch_tokens)
    return [
        bare,
        Program("a batch of windows", read(window_batches), **program_options),
        Program("a batch of trajectories", read(record_batches), **program_options),
    ]


def of_losses(shape):
    """Losses with their gradient in the logits, and scores: the package's versions and the plain ones."""
    apply, params = programs.network(shape, "teacher")
    forward, forward_backward = (
        programs.forward(shape, "teacher", apply, params),
        programs.forward_backward(shape, "teacher", apply, params),
    )
    logits_BLV, (x_BL, t_B, _), path = forward.run(), programs.inputs(shape), settings.path(shape.config, shape.text_vocab)
    arguments = (logits_BLV, programs.filled(programs.abstract(logits_BLV), 3), jnp.roll(x_BL, 1, axis=1), x_BL, t_B)
    calls = {
        "generalised_kl": lambda loss, b, _, x_1, x_t, t: loss(path, b, x_1, x_t, t).mean(),
        "cross_entropy": lambda loss, b, _, x_1, x_t, t: loss(path, b, x_1, x_t, t).mean(),
        "distillation_kl": lambda loss, b, target, x_1, x_t, t: loss(path, target, b, x_t).mean(),
        "entropy": lambda score, b, _, x_1, x_t, t: score(path, b, x_t),
        "negative_log_posterior": lambda score, b, _, x_1, x_t, t: score(path, b, x_t),
    }
    group = [forward, forward_backward]
    for (name, call), (suffix, module) in itertools.product(calls.items(), (("", losses), (", plain", plain))):
        has_gradient, call = name not in SCORES, functools.partial(call, getattr(module, name))
        jitted, bare = (
            meshes.jit(shape.mesh, jax.value_and_grad(call) if has_gradient else call),
            forward_backward if has_gradient else forward,
        )
        run, lower = functools.partial(jitted, *arguments), functools.partial(jitted.lower, *arguments)
        group.append(Program(f"{name}{suffix}", run, lower, {bare.name: 1}, shape.batch_tokens))
    return group


def of_stage(shape):
    """The stage's loop over batches and shards, beside its programs alone; for the blind set, where the loop has least time."""
    shape = shape.with_changes(trajectories__midpoints=2, trajectories__shard=2 * shape.batch)
    c, (apply, weights) = shape.config.trajectories, programs.network(shape, "teacher")
    bare = programs.trajectory_program(
        shape.with_changes(shaping__candidates=1), {"generator": weights, "compass": None}, apply, "teacher", 1, {}
    )
    generate = generation.program(shape.config, shape.text_vocab, shape.mesh, "whole", "blind", apply)
    schema = trajectory_records.schema(shape.config, settings.path(shape.config, shape.text_vocab), "whole", 1)
    x_BL, _, _ = programs.inputs(shape)
    bar, stats, params = types.SimpleNamespace(advance=lambda n: None), {}, {"generator": weights, "compass": None}

    def run():
        with tempfile.TemporaryDirectory() as folder:
            write = lambda shard, rows: records.write_shard(
                pathlib.Path(folder), shard, schema, trajectory_records.joined(rows), ""
            )
            start = lambda first: generate(params, np.int32(first), meshes.put_batch(shape.mesh, np.asarray(x_BL)))
            stats.update(trajectory_records.make(start, write, list(range(SHARDS)), SHARDS, c, bar))

    extra_metrics = lambda: {"device_busy": stats["device_busy"]}
    loop = Program(
        f"{2 * SHARDS} batches in {SHARDS} shards",
        run,
        None,
        {bare.name: 2 * SHARDS},
        2 * SHARDS * shape.batch_tokens,
        extra_metrics=extra_metrics,
    )
    return [bare, loop]


def of_start(shape):
    """Start-up time before anything is computed; the same for every config."""
    del shape

    def run(*arguments):
        return lambda: subprocess.run([sys.executable, "-m", "tsdfm_jax.main", *arguments], capture_output=True, check=False)

    quick = "--config=configs/quickstart.py"
    return [
        Program("python -c pass", lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        Program("--help", run("--help")),
        Program("an unknown key", run(quick, "--config.model.widht=3")),
        Program("a wrong value", run(quick, "--config.flow.source=foo")),
    ]


GROUPS = {
    "teacher": programs.of_teacher,
    "compass": programs.of_compass,
    "trajectories": programs.of_trajectories,
    "student": programs.of_student,
    "sampler": programs.of_sampler,
    "draws": of_draws,
    "losses": of_losses,
    "reading": of_reading,
    "stage": of_stage,
    "start": of_start,
}

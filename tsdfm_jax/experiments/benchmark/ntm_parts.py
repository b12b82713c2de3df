"""NTM's groups: its updates and its sampler, and beside each the bare network passes that it consists of.

Time runs from 0 = data to 1 = noise.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tsdfm_jax.config import settings, validation
from tsdfm_jax.experiments.benchmark import programs
from tsdfm_jax.experiments.benchmark.clock import Program
from tsdfm_jax.experiments.planning import aot_compile, ntm_programs
from tsdfm_jax.models import patches
from tsdfm_jax.normalizing import drawing, networks, table, trained, training
from tsdfm_jax.runtime import mesh as meshes, state as states

DATA = (["16", "16", "32"], 1000)  # image or latent, and classes, of a config that reads files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A config to time.

    Attributes:
      config, mesh: config and mesh of the programs.
      batch: B, images of every program.
      data: the networks.Shape of the images.
    """

    config: ConfigDict
    mesh: Any
    batch: int
    data: networks.Shape

    @property
    def batch_tokens(self):
        """Patches of one batch."""
        return self.batch * self.data.row[0]


def prepared(config, asked):
    """(the Shape to time, its sizes for the record). The number of patches is the data's, whatever length is asked for."""
    changes = {f"{name}.batch": asked["batch"] for name in ("flow_matching", "ntm", "denoiser", "evaluate", "sample")}
    changes |= {f"{name}.optimiser.accumulate": 1 for name in ("flow_matching", "ntm", "denoiser")}
    changes |= {"model.dtype": asked["dtype"] or config.model.dtype}
    config = aot_compile.with_settings(config, changes)
    validation.validate(config)
    data = ntm_programs.data(config, 0, *DATA)
    shape = Shape(config=config, mesh=settings.mesh(config), batch=asked["batch"], data=data)
    sizes = {"batch": shape.batch, "length": data.row[0], "numbers": data.row[1], "width": config.model.width}
    return shape, sizes | {"dtype": config.model.dtype, "remat": config.model.remat}


def weights(shape, name, seed=0):
    """Random weights of a network or of a trajectory model."""
    if name == "flow":
        return weights(shape, "ntm", seed)["flows"]["0"]
    if name == "predictor":
        return weights(shape, "ntm", seed)["predictor"]
    return filled(trained.template(shape.config, shape.data, shape.mesh, name), seed)


def filled(abstract, seed=0):
    """A tree of small numbers, made without a program to compile: a few normal ones, over and over."""
    numbers = 0.02 * np.random.default_rng(seed).normal(size=65_537)
    return jax.tree.map(lambda a: jax.device_put(np.resize(numbers, a.shape).astype(a.dtype), a.sharding), abstract)


def images(shape, rows=None):
    """Random (x_BNd, y_B) over the mesh."""
    rng, rows = np.random.default_rng(0), rows or shape.batch
    x_BNd = rng.normal(size=(rows, *shape.data.row)).astype(np.float32)
    return meshes.put_whole(shape.mesh, (x_BNd, np.arange(rows, dtype=np.int32) % (shape.data.classes or 1)))


def network(shape, name):
    """(cfg, apply) of flow matching, the predictor or one flow block: `apply(params, x_BNd, y_B)`."""
    cfg = getattr(networks, name)(shape.config, shape.data)
    times = lambda rows: jnp.broadcast_to(jnp.asarray([0.75, 0.5, 0.25])[: cfg.times], (rows, cfg.times))
    has_label = cfg.classes or cfg.vector
    return cfg, lambda params, x_BNd, y_B: patches.apply(cfg, params, x_BNd, times(len(x_BNd)), y_B if has_label else None)


def forward(shape, name, rows=None):
    """One bare forward pass over so many rows."""
    _, apply = network(shape, name)
    return _program(shape, f"{name} forward", apply, (weights(shape, name), *images(shape, rows)), rows, 1, name)


def forward_backward(shape, name, rows=None):
    """One bare forward and backward pass: outputs, and the gradient of weights and input for given output gradients.

    Flow matching's input is data, and has no gradient.
    """
    _, apply = network(shape, name)
    params, x_BNd, y_B = weights(shape, name), *images(shape, rows)

    def passes(params, out_bar, x_BNd, y_B):
        if name == "flow_matching":
            out, pullback = jax.vjp(lambda params: apply(params, x_BNd, y_B), params)
        else:
            out, pullback = jax.vjp(lambda params, x_BNd: apply(params, x_BNd, y_B), params, x_BNd)
        return out, pullback(out_bar)

    out = jax.eval_shape(meshes.jit(shape.mesh, apply), params, x_BNd, y_B)
    split = meshes.batch_sharding(shape.mesh)
    out_bar = filled(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=split), out), 1)
    return _program(shape, f"{name} forward and backward", passes, (params, out_bar, x_BNd, y_B), rows, 3, name)


def patch_by_patch(shape):
    """The passes of one flow block's inverse: one patch at a time with a cache, of patches that are there already."""
    cfg, _ = network(shape, "flow")
    time_BM = meshes.put_whole(shape.mesh, np.full((shape.batch, 2), 0.25, np.float32))

    def passes(params, x_BNd, time_BM):
        def step(cache, given):
            place, x_B1d = given
            *outs, cache = patches.apply(cfg, params, x_B1d, time_BM, cache=cache, place=place)
            return cache, [out[:, 0] for out in outs]

        x_NB1d = jnp.swapaxes(x_BNd, 0, 1)[:, :, None]
        return jax.lax.scan(step, patches.empty_cache(cfg, x_BNd.shape[0]), (jnp.arange(cfg.patches), x_NB1d))[1]

    return _program(shape, "flow patch by patch", passes, (weights(shape, "flow"), images(shape)[0], time_BM), None, 1, "flow")


def _program(shape, name, function, arguments, rows, passes, network_name):
    rows, jitted = rows or shape.batch, meshes.jit(shape.mesh, function)
    flops = passes * rows * ntm_programs.forward(shape.config, shape.data, network_name)
    run, lower = functools.partial(jitted, *arguments), functools.partial(jitted.lower, *arguments)
    title = name + (f", {rows} rows" if rows != shape.batch else "")
    return Program(title, run, lower, tokens=rows * shape.data.row[0], flops=flops)


def batch(shape):
    """A batch of random images and labels, as training reads it."""
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(shape.batch, *shape.data.image)).astype(np.float32)}
    rows |= {"y": np.arange(shape.batch, dtype=np.int32) % shape.data.classes} if shape.data.classes else {}
    return meshes.put_whole(shape.mesh, rows)


def optimiser_only(shape, section, name):
    """The optimiser's part of an update alone, from a given gradient."""
    cfg, params = settings.optimiser(shape.config[section]), weights(shape, name)
    optimiser = states.make_optimiser(cfg)
    state = [states.create(lambda params: params, optimiser, shape.mesh, ema=True, given=(params,))[0]]
    gradient, jitted = weights(shape, name, 2), jax.jit(functools.partial(states.descend, optimiser, cfg.ema), donate_argnums=0)

    def run():
        state[0], norm = jitted(state[0], gradient)
        return state[0], norm

    return Program(f"{name} optimiser alone", run, lambda: jitted.lower(state[0], gradient))


def of_flow_matching(shape):
    """Flow matching's update."""
    bare = forward_backward(shape, "flow_matching")
    learner = training.flow_matching_learner(shape.config, shape.data, shape.mesh)
    step = programs.update(shape, "flow_matching", learner, batch(shape), {bare.name: 1}, bare.flops)
    return [bare, optimiser_only(shape, "flow_matching", "flow_matching"), step]


def of_ntm(shape):
    """The trajectory model's update, with and without a transporter, by `ntm.loss`."""
    counts, rows = ntm_programs.passes(shape.config, "ntm"), shape.batch
    steps, levels = counts["predictor"] // 3, counts["flow"] // 3 // shape.config.transporter.flows
    predictor, flow = forward_backward(shape, "predictor", steps * rows), forward_backward(shape, "flow", levels * rows)
    group, bare = [predictor, flow, optimiser_only(shape, "ntm", "ntm")], {predictor.name: 1.0}
    if counts["flow_matching"]:
        anchor = forward(shape, "flow_matching", steps * rows)
        group, bare = [anchor, *group], bare | {anchor.name: 1.0}
    start = weights(shape, "flow_matching") if counts["flow_matching"] else None
    for model, flows in (("ntm", shape.config.transporter.flows), ("ntm_identity", 0)):
        learner = training.trajectory_learner(shape.config, shape.data, shape.mesh, model, start)
        passes = bare | ({flow.name: float(flows)} if flows else {})
        flops = sum(program.flops * passes.get(program.name, 0) for program in group)
        group.append(programs.update(shape, model, learner, batch(shape), passes, flops))
    return group


def of_sampler(shape):
    """Images of the trajectory model, T steps and the inversion, and of flow matching by Euler's method."""
    predictor, inverse, velocity = forward(shape, "predictor"), patch_by_patch(shape), forward(shape, "flow_matching")
    parallel, group = forward(shape, "flow"), []
    for model, passes in (("ntm", predictor), ("ntm_identity", predictor), ("flow_matching", velocity)):
        flows = shape.config.transporter.flows if model == "ntm" else 0
        for steps in shape.config.ntm.steps:
            bare = {passes.name: float(steps)} | ({inverse.name: float(flows)} if flows else {})
            draw = drawing.program(shape.config, shape.data, shape.mesh, table.request(shape.config, model, steps), 0)
            index_B, (_, y_B) = np.arange(shape.batch, dtype=np.int32), images(shape)
            rows = {"index": meshes.put_whole(shape.mesh, index_B)} | ({"y": y_B} if shape.data.classes else {})
            arguments = (weights(shape, model), rows)
            run, lower = functools.partial(draw, *arguments), functools.partial(draw.lower, *arguments)
            flops = steps * passes.flops + flows * inverse.flops
            group.append(Program(f"{model}, {steps} steps", run, lower, bare, shape.batch_tokens, flops))
    return [predictor, parallel, inverse, velocity, *group]


GROUPS = {"flow_matching": of_flow_matching, "ntm": of_ntm, "images": of_sampler}

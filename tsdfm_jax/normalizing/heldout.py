"""Held-out figures of flow matching and of trajectory models. Time runs from 0 = data to 1 = noise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.normalizing import networks, sampling
from tsdfm_jax.ntm import chain, flow_matching, likelihood, patches as cutting
from tsdfm_jax.runtime import mesh as meshes, pipeline

SEED = 3000
TIMES = 8  # times at which flow matching's loss is averaged


def likelihoods(config, shape, mesh, params, rows, steps, batch):
    """The likelihood of trajectories of held-out images, one trajectory each, that end at `ntm.t_sample`.

    Args:
      rows: {"x": x_NHWC, "y": …}.
      steps: T.

    Returns:
      trajectory_bits: exact, bits a number of the T noisy levels below x_T, which the model learns, given x_T.
      bound_bits: a bound on -log p of level 0, in bits a dimension.
      by_step: bits a number of each step k = 1 … T; step 1 ends at level 0.
      images, t_min: how many, and the level where they end.
    """
    c, numbers = config.ntm, math.prod(shape.row)

    def measure(seed, params, index_B, batch):
        condition = networks.Condition(batch["y"], jnp.ones(index_B.shape, bool)) if "y" in batch else None
        return drawn_nll(config, shape, params, sampling.keys(seed, index_B), batch["x"], condition, steps)

    nll_NT, bound_N = over_rows(mesh, measure, config.seed + SEED, params, rows, batch)
    by_step_T = nll_NT.astype(np.float64).mean(axis=0) / (numbers * math.log(2))
    return {
        "steps": steps,
        "trajectory_bits": float(by_step_T.mean()),
        "bound_bits": float(bound_N.astype(np.float64).mean() / (numbers * math.log(2))),
        "by_step": by_step_T.tolist(),
        "images": len(bound_N),
        "t_min": float(c.t_sample),
    }


def drawn_nll(config, shape, params, key_B, x_BHWC, condition, steps):
    """(nll_BT, bound_B) in nats, of one trajectory of T = `steps` drawn from each image, which ends at `ntm.t_sample`.

    nll_BT are the exact parts of the T noisy levels below x_T, given x_T; bound_B is the bound on -log p of level 0.
    """
    c = config.ntm
    t_BT = chain.schedule(jnp.full(key_B.shape, c.t_sample), steps, c.shift)
    xs_BTNd = chain.sample(key_B, cutting.cut(x_BHWC, shape.patch), t_BT)
    nll_BT = likelihood.trajectory_nll(networks.trajectory_model(config, shape), params, xs_BTNd, t_BT, condition)
    return nll_BT[:, :-1], likelihood.bound(nll_BT, xs_BTNd, t_BT)


def velocity_loss(config, shape, mesh, params, rows, batch):
    """Flow matching's loss on held-out images, at TIMES even times of each."""
    apply = networks.velocity(config, shape)

    def measure(seed, params, index_B, batch):
        x_0_BNd = cutting.cut(batch["x"], shape.patch)
        condition = networks.Condition(batch["y"], jnp.ones(index_B.shape[0], bool)) if "y" in batch else None
        noise = jax.vmap(lambda key: jax.random.normal(key, (TIMES, *shape.row)))(sampling.keys(seed, index_B))
        errors = []
        for number in range(TIMES):
            t_B = jnp.full(index_B.shape, (number + 0.5) / TIMES)
            given = functools.partial(apply, params, condition=condition)
            errors.append(flow_matching.errors(given, noise[:, number], x_0_BNd, t_B))
        return jnp.stack(errors, axis=1).mean(axis=1)

    return float(over_rows(mesh, measure, config.seed + SEED, params, rows, batch).astype(np.float64).mean())


def over_rows(mesh, measure, seed, params, rows, batch):
    """`measure(seed, params, index_B, rows)` of all rows, `batch` at once: its tree of arrays, as numpy."""
    split = meshes.batch_sharding(mesh)
    jitted = meshes.seeded(mesh, measure, seed, in_shardings=(None, split, split), out_shardings=split)
    count = len(rows["x"])
    given = {"index": np.arange(count, dtype=np.int32), **rows}

    def run(part):
        part = dict(part)
        return jitted(params, part.pop("index"), part)

    return pipeline.mapped(mesh, run, given, min(batch, count), "held-out likelihood")

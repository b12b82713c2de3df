"""The learners of flow matching and of trajectory models. Time runs from 0 = data to 1 = noise.

Batches are {"x": x_BHWC, "y": labels or vectors}; without a condition there is no "y".
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.config import settings
from tsdfm_jax.models import patches, transformer
from tsdfm_jax.normalizing import networks
from tsdfm_jax.ntm import chain, flow_matching, likelihood, patches as cutting, start
from tsdfm_jax.runtime import mesh as meshes, state as states

TRAJECTORY_SEED = 1000
LEAST_LEVEL = 1e-6  # of the data's end: a uniform draw may be 0, and a level at 0 has no density


def dropped(key, batch, share):
    """The Condition of a batch, with this share of it hidden; None for data without one."""
    if "y" not in batch:
        return None
    return networks.Condition(batch["y"], jax.random.uniform(key, batch["y"].shape[:1]) >= share)


def flow_matching_learner(config, shape, mesh):
    """The state.Learner of flow matching."""
    c, apply = config.flow_matching, networks.velocity(config, shape)

    def loss(key, params, batch):
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        x_0_BNd = cutting.cut(batch["x"], shape.patch)
        condition = dropped(drop_key, batch, c.drop)
        t_B = flow_matching.times(time_key, x_0_BNd.shape[0], c.time_mean, c.time_deviation, c.uniform)
        noise_BNd = jax.random.normal(noise_key, x_0_BNd.shape)
        return flow_matching.errors(lambda x, t: apply(params, x, t, condition), noise_BNd, x_0_BNd, t_B).mean(), {}

    init = lambda seed: patches.init(jax.random.key(seed), networks.flow_matching(config, shape))
    return states.learner(init, loss, settings.optimiser(c), mesh, config.seed, given=(meshes.seed_word(config.seed),))


def trajectory_learner(config, shape, mesh, model, flow_matching_params=None):
    """The state.Learner of a trajectory model, "ntm" or "ntm_identity".

    With flow matching's weights its predictor starts from them, and is anchored to their mean by a weight that falls to 0.
    """
    c, trajectory, apply = config.ntm, networks.trajectory_model(config, shape), networks.velocity(config, shape)

    def init(seed, *given):
        made = networks.init(jax.random.key(seed), config, shape, model)
        return made | {"predictor": transformer.overlay(made["predictor"], *given)} if given else made

    def loss(key, params, batch, *more):
        *frozen, progress = more
        drop_key, draw_key = jax.random.split(key)
        condition = dropped(drop_key, batch, c.drop)
        pairs = draw(config, draw_key, cutting.cut(batch["x"], shape.patch))
        whole = config.ntm.loss == "trajectory"
        of_pairs = (pairs.xs_BTNd, pairs.t_BT, pairs.pace_B, condition)
        nll_BS, mean_BSNd = likelihood.step_nll(trajectory, params, *of_pairs, ends_in_noise=whole)
        nll = jnp.mean(nll_BS.sum(axis=1) * pairs.weight_B) / math.prod(shape.row)
        parts = {"nats_per_number": nll}
        if not frozen:
            return nll, parts
        x, t, s = (likelihood.merge(value) for value in (pairs.xs_BTNd[:, 1:], pairs.t_BT[:, 1:], pairs.t_BT[:, :-1]))
        v = apply(frozen[0], x, t, likelihood.repeated(condition, x.shape[0] // nll_BS.shape[0]))
        distance = start.anchor(likelihood.merge(mean_BSNd), x, t, s, v).mean()
        weight = c.anchor * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return nll + weight * distance, parts | {"anchor": distance}

    given = (meshes.seed_word(config.seed), *(() if flow_matching_params is None else (flow_matching_params,)))
    options = dict(given=given, frozen=flow_matching_params, pass_progress=True)
    return states.learner(init, loss, settings.optimiser(c), mesh, config.seed + TRAJECTORY_SEED, **options)


class Levels(NamedTuple):
    """Consecutive levels of trajectories: those that a loss reads of each row.

    Attributes:
      xs_BTNd: the levels.
      t_BT: their times.
      pace_B: 1/T of the trajectories that they are of.
      weight_B: what their likelihood counts: T for one step of T, 1 for all.
    """

    xs_BTNd: jax.Array
    t_BT: jax.Array
    pace_B: jax.Array
    weight_B: jax.Array


def draw(config, key, x_0_BNd):
    """Levels of a batch of data: of all steps, or by `ntm.loss` = pair of one random step."""
    c, rows = config.ntm, x_0_BNd.shape[0]
    first_key, which_key, path_key = jax.random.split(key, 3)
    low, high = c.t_min
    first_B = jnp.maximum(jax.random.uniform(first_key, (rows,), minval=low, maxval=high), LEAST_LEVEL)
    t_BT, steps_B = schedules(c, first_B, which_key)
    weight_B = jnp.ones(rows)
    if c.loss == "pair":
        place_B = (jax.random.uniform(jax.random.fold_in(which_key, 1), (rows,)) * steps_B).astype(jnp.int32)
        place_B = jnp.minimum(place_B, steps_B - 1)
        t_BT = jnp.take_along_axis(t_BT, place_B[:, None] + jnp.arange(2)[None], axis=1)
        weight_B = steps_B.astype(jnp.float32)
    xs_BTNd = chain.sample(jax.random.split(path_key, rows), x_0_BNd, t_BT)
    return Levels(xs_BTNd, t_BT, 1.0 / steps_B, weight_B)


def schedules(c, first_B, key):
    """(the times of a trajectory for each row, padded at the end by ones [B, max T + 1]; its T, drawn from `ntm.steps` [B])."""
    most = max(c.steps)
    table = jnp.asarray([[*chain.levels(steps, c.shift), *[1.0] * (most - steps)] for steps in c.steps], jnp.float32)
    which_B = jax.random.randint(key, first_B.shape, 0, len(c.steps))
    return jnp.concatenate([first_B[:, None], table[which_B]], axis=1), jnp.asarray(c.steps)[which_B]

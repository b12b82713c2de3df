"""The learner of the denoiser that replaces inversion and score denoising. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp

from tsdfm_jax.config import settings
from tsdfm_jax.models import patches
from tsdfm_jax.normalizing import networks, sampling
from tsdfm_jax.ntm import chain, likelihood, patches as cutting
from tsdfm_jax.runtime import mesh as meshes, state as states

SEED = 2000


def learner(config, shape, mesh, ntm_params):
    """The state.Learner of the denoiser: the mean square of its distance to score denoising by the frozen NTM.

    Both see trajectories of real images that end at `ntm.t_sample`; T is drawn anew for each batch.
    """
    c, cfg = config.ntm, networks.denoiser(config, shape)

    def loss(key, params, batch, ntm_params):
        steps_key, path_key = jax.random.split(key)
        x_0_BNd = cutting.cut(batch["x"], shape.patch)
        rows = x_0_BNd.shape[0]
        condition = networks.Condition(batch["y"], jnp.ones(rows, bool)) if "y" in batch else None
        makers = [lambda key, x_0, steps=steps: pairs(config, shape, ntm_params, key, x_0, condition, steps) for steps in c.steps]
        which = jax.random.randint(steps_key, (), 0, len(c.steps))
        u_BNd, target_BNd = jax.lax.stop_gradient(jax.lax.switch(which, makers, path_key, x_0_BNd))
        pace_B = jnp.full(rows, 1.0) / jnp.asarray(c.steps, jnp.float32)[which]
        time_BM = networks.denoiser_times(jnp.full(rows, c.t_sample), pace_B)
        out_BNd = u_BNd + patches.apply(cfg, params, u_BNd, time_BM, *(condition or (None, None)))
        return jnp.mean((out_BNd - target_BNd) ** 2), {}

    init = lambda seed: patches.init(jax.random.key(seed), cfg)
    options = dict(given=(meshes.seed_word(config.seed),), frozen=ntm_params)
    return states.learner(init, loss, settings.optimiser(config.denoiser), mesh, config.seed + SEED, **options)


def pairs(config, shape, ntm_params, key, x_0_BNd, condition, steps):
    """(u at level 0, score denoising of the trajectory) of trajectories of real images, each [B, N, d]."""
    c, rows = config.ntm, x_0_BNd.shape[0]
    t_BT = chain.schedule(jnp.full(rows, c.t_sample), steps, c.shift)
    xs_BTNd = chain.sample(jax.random.split(key, rows), x_0_BNd, t_BT)
    target_BNd = sampling.scored(config, shape, ntm_params, xs_BTNd, t_BT, condition, config.denoiser.clip)
    model = networks.trajectory_model(config, shape)
    us_BTNd, _ = likelihood.transported(model, ntm_params, xs_BTNd[:, :1], t_BT[:, :1], jnp.full(rows, 1.0 / steps))
    return us_BTNd[:, 0], target_BNd

"""The exact likelihood of a trajectory, as a whole or by one random pair of levels. Time runs from 0 = data to 1 = noise.

p(x_0 … x_T) = N(x_T; 0, I) Π_k N(u_{k-1}; μ(u_k), σ(u_k)²) |det du_{k-1}/dx_{k-1}|, u_k = f(x_k, t_k) and u_T = x_T.
What is exact is the density of the trajectory; of its level 0 alone it gives a bound, see `bound`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.ntm import chain


class Model(NamedTuple):
    """A trajectory model as functions of its weights.

    `pace_B` is 1/T, `condition` what the predictor is told beside the times (labels, and for which rows they count), as one
    tree with a leading axis B or None.

    Attributes:
      transport: (params, x_BNd, t_B, pace_B) -> (u_BNd, Σ log σ [B]).
      invert: (params, u_BNd, t_B, pace_B) -> x_BNd.
      predict: (params, u_BNd, t_B, s_B, pace_B, condition) -> (mean_BNd, log_scale_BNd) of u_s.
    """

    transport: Callable[..., tuple[jax.Array, jax.Array]]
    invert: Callable[..., jax.Array]
    predict: Callable[..., tuple[jax.Array, jax.Array]]


def merge(x):
    """[B, T, …] -> [B T, …], the levels of a row together, so that no row leaves its device."""
    return x.reshape(-1, *x.shape[2:])


def repeated(tree, times):
    """Each row of every array of a tree `times` times in a row."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def transported(model, params, xs_BTNd, t_BT, pace_B):
    """(us_BTNd, Σ log σ [B, T]) of some levels; a level at time 1 stays as it is."""
    rows, count = t_BT.shape
    u, log_scale = model.transport(params, merge(xs_BTNd), merge(t_BT), repeated(pace_B, count))
    us_BTNd, log_scale_BT, is_noise_BT = u.reshape(xs_BTNd.shape), log_scale.reshape(rows, count), t_BT >= 1.0
    return jnp.where(chain.expand(is_noise_BT, us_BTNd), xs_BTNd, us_BTNd), jnp.where(is_noise_BT, 0.0, log_scale_BT)


def step_nll(model, params, xs_BTNd, t_BT, pace_B, condition, ends_in_noise=False):
    """-log p(x_{k-1} | x_k) in nats, of each step between consecutive levels: [B, T] for T + 1 levels, and the means of u.

    Of all levels given, only those below the last need be data: the last is read as it is where its time is 1. Where that is
    known of all rows (`ends_in_noise`), it is not transported for nothing.
    """
    steps = t_BT.shape[1] - 1
    if ends_in_noise:
        us_BTNd, log_scale_BT = transported(model, params, xs_BTNd[:, :-1], t_BT[:, :-1], pace_B)
        us_BTNd = jnp.concatenate([us_BTNd, xs_BTNd[:, -1:]], axis=1)
    else:
        us_BTNd, log_scale_BT = transported(model, params, xs_BTNd, t_BT, pace_B)
    from_t, to_s = (merge(t_BT[:, 1:]), merge(t_BT[:, :-1]))
    told = repeated((pace_B, condition), steps)
    mean, log_sigma = model.predict(params, merge(us_BTNd[:, 1:]), from_t, to_s, *told)
    z = (merge(us_BTNd[:, :-1]) - mean) * jnp.exp(-log_sigma)
    nll_BT = -chain.normal_log_density(z, log_sigma).reshape(-1, steps)
    return nll_BT + log_scale_BT[:, :steps], mean.reshape(-1, steps, *mean.shape[1:])


def trajectory_nll(model, params, xs_BTNd, t_BT, condition):
    """-log p(x_0 … x_T) in nats by part: the T steps, then the noise x_T at time 1, [B, T + 1]."""
    pace_B = jnp.full(t_BT.shape[:1], 1.0 / (t_BT.shape[1] - 1))
    nll_BT, _ = step_nll(model, params, xs_BTNd, t_BT, pace_B, condition, ends_in_noise=True)
    noise_B = -chain.normal_log_density(xs_BTNd[:, -1], 0.0)
    return jnp.concatenate([nll_BT, noise_B[:, None]], axis=1)


def bound(nll_BT, xs_BTNd, t_BT):
    """An upper bound on -log p(x_0) of level 0 alone, in nats, [B]: its mean over trajectories that start at x_0 is one.

    -log p(x_0) ≤ E_q[-log p(x_0 … x_T) + log q(x_1 … x_T | x_0)], by Jensen's inequality.
    """
    return nll_BT.sum(axis=1) + chain.log_density(xs_BTNd, t_BT)


def bits(nats, numbers):
    """Nats of so many numbers as bits a number."""
    return nats / (numbers * np.log(2.0))

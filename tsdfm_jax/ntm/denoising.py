"""Trajectory score denoising: the mean of the data given a whole trajectory, by the model's score. Time 0 = data, 1 = noise.

With X = (1 - t) x_0 + noise of covariance S over the levels, E[(1 - t) x_0 | X] = X + S ∇ log p(X): Tweedie's formula.
"""

import jax
import jax.numpy as jnp

from tsdfm_jax.ntm import chain


def denoised(log_density, xs_BTNd, t_BT, clip=1.0):
    """x_0 as the trajectory's model sees it from level 0, [B, N, d].

    `log_density(xs_BTNd) -> [B]` is that of trajectories, rows by themselves. `clip` < 1 cuts the parts of an image's correction
    that are larger than this quantile of their sizes.
    """
    score_BTNd = jax.grad(lambda xs: log_density(xs).sum())(xs_BTNd)
    shared_BT = chain.covariance(t_BT)[:, 0]
    change_BNd = jnp.einsum("bt,btnd->bnd", shared_BT, score_BTNd)
    if clip < 1.0:
        most_B = jnp.quantile(jnp.abs(change_BNd).reshape(change_BNd.shape[0], -1), clip, axis=1)
        change_BNd = jnp.clip(change_BNd, -most_B[:, None, None], most_B[:, None, None])
    return (xs_BTNd[:, 0] + change_BNd) / (1.0 - chain.expand(t_BT[:, 0], change_BNd))

"""Sampling a trajectory from noise to data, with guidance. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp


def guided(given, alone, weight):
    """(mean, log σ) of guidance `weight` from those with and without the condition: arXiv 2605.08078, section 3.4."""
    (mean_c, log_c), (mean_u, log_u) = given, alone
    share = jnp.clip(jnp.exp(2.0 * (log_c - log_u)), 0.0, 1.0)
    total = 1.0 + weight - weight * share
    return ((1.0 + weight) * mean_c - weight * share * mean_u) / total, log_c - 0.5 * jnp.log(total)


def sample(key_B, predict, shape, t_T, noise_free=False):
    """Trajectories of u, [B, T + 1, N, d], level 0 is the nearest to data. Row i depends on its own key alone.

    `predict(u_BNd, t_B, s_B) -> (mean, log σ)`; `shape` is (N, d), `t_T` the T + 1 times, rising. With `noise_free` the last step
    takes the mean.
    """
    steps, rows = t_T.shape[0] - 1, key_B.shape[0]
    noise = jax.vmap(lambda key: jax.random.normal(key, (steps + 1, *shape)))(key_B)
    first_BNd = noise[:, steps]

    def step(u_BNd, given):
        t, s, noise_BNd, weight = given
        mean_BNd, log_scale_BNd = predict(u_BNd, jnp.full(rows, t), jnp.full(rows, s))
        u_BNd = mean_BNd + weight * jnp.exp(log_scale_BNd) * noise_BNd
        return u_BNd, u_BNd

    weight_T = jnp.ones(steps).at[-1].set(0.0 if noise_free else 1.0)
    given = (t_T[:0:-1], t_T[-2::-1], jnp.swapaxes(noise, 0, 1)[:steps][::-1], weight_T)
    _, states_TBNd = jax.lax.scan(step, first_BNd, given)
    return jnp.swapaxes(jnp.concatenate([first_BNd[None], states_TBNd])[::-1], 0, 1)

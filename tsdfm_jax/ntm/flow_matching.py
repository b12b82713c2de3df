"""Flow matching: the baseline, and the network that a predictor starts from. Time runs from 0 = data to 1 = noise.

x_t = (1 - t) x_0 + t ε, and the network learns the velocity ε - x_0, so that x_0 = x_t - t v. It is given as a function
`velocity(x_BNd, t_B) -> v_BNd`.
"""

import jax
import jax.numpy as jnp

from tsdfm_jax.ntm import chain


def times(key, count, mean, deviation, uniform):
    """Training times [B]: of a logit-normal law, or with probability `uniform` of the uniform one."""
    normal_key, which_key, uniform_key = jax.random.split(key, 3)
    by_logit_B = jax.nn.sigmoid(mean + deviation * jax.random.normal(normal_key, (count,)))
    return jnp.where(jax.random.uniform(which_key, (count,)) < uniform, jax.random.uniform(uniform_key, (count,)), by_logit_B)


def errors(velocity, noise_BNd, x_0_BNd, t_B):
    """Mean square of the velocity's error in each row, [B]."""
    t_B11 = chain.expand(t_B, x_0_BNd)
    x_BNd = (1.0 - t_B11) * x_0_BNd + t_B11 * noise_BNd
    return jnp.mean((velocity(x_BNd, t_B) - (noise_BNd - x_0_BNd)) ** 2, axis=(1, 2))


def euler(velocity, x_BNd, steps):
    """Follow the velocity from noise x at time 1 to data in equal steps: all states, [B, T + 1, N, d], level 0 is data."""

    def step(x_BNd, number):
        t_B = jnp.full(x_BNd.shape[:1], 1.0) - number / steps
        following_BNd = x_BNd - velocity(x_BNd, t_B) / steps
        return following_BNd, following_BNd

    _, states_TBNd = jax.lax.scan(step, x_BNd, jnp.arange(steps, dtype=jnp.float32))
    return jnp.swapaxes(jnp.concatenate([x_BNd[None], states_TBNd])[::-1], 0, 1)


def guided(given, alone, weight):
    """The velocity of guidance `weight` from one with and one without the condition."""
    return (1.0 + weight) * given - weight * alone

"""The transporter u = f(x, t): causal flow blocks over patches that scan in alternating directions. Time 0 = data, 1 = noise.

A flow block is given as functions of a network that is blind to its own patch: output n depends on patches before n only, so that
u_n = (x_n - μ_n) / σ_n has the log-determinant -Σ log σ_n, and is inverted patch by patch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LIMIT = 5.0  # of |log σ|, approached softly


class Network(NamedTuple):
    """A causal network as functions; `time_BM` are the times that it is told.

    Attributes:
      parallel: (params, x_BNd, time_BM) -> (mean_BNd, log_scale_BNd), output n from patches before n.
      begin: number of rows -> an empty cache.
      step: (params, cache, previous_Bd, place, time_BM) -> (mean_Bd, log_scale_Bd, cache): output `place`, given the patch before.
    """

    parallel: Callable[..., tuple[jax.Array, jax.Array]]
    begin: Callable[[int], Any]
    step: Callable[..., tuple[jax.Array, jax.Array, Any]]


def soft_limit(x, limit=LIMIT):
    """x, bent so that it stays within ±limit."""
    return limit * jnp.tanh(x / limit)


def forward(network, params, x_BNd, time_BM):
    """(u_BNd, Σ log σ of all blocks and patches [B]); log |det du/dx| is minus the latter.

    `params` holds the weights of each flow block, in order; without any, u is x.
    """
    log_scale_B = jnp.zeros(x_BNd.shape[0])
    for number, weights in enumerate(params):
        x_BNd = turned(x_BNd, number)
        mean_BNd, raw_BNd = network.parallel(weights, x_BNd, time_BM)
        each_BNd = soft_limit(raw_BNd)
        x_BNd = turned((x_BNd - mean_BNd) * jnp.exp(-each_BNd), number)
        log_scale_B = log_scale_B + each_BNd.sum(axis=(1, 2))
    return x_BNd, log_scale_B


def inverse(network, params, u_BNd, time_BM):
    """x_BNd such that `forward` gives u: block by block from the last, each patch by patch with a cache."""
    for number, weights in reversed(list(enumerate(params))):
        u_BNd = turned(_inverse_block(network, weights, turned(u_BNd, number), time_BM), number)
    return u_BNd


def turned(x_BNd, number):
    """The patches in the order in which flow block `number` scans them: its own inverse."""
    return x_BNd[:, ::-1] if number % 2 else x_BNd


def _inverse_block(network, weights, u_BNd, time_BM):
    def step(carry, given):
        (cache, previous_Bd), (place, u_Bd) = carry, given
        mean_Bd, raw_Bd, cache = network.step(weights, cache, previous_Bd, place, time_BM)
        x_Bd = mean_Bd + jnp.exp(soft_limit(raw_Bd)) * u_Bd
        return (cache, x_Bd), x_Bd

    rows, patches = u_BNd.shape[:2]
    start = network.begin(rows), jnp.zeros_like(u_BNd[:, 0])
    _, x_NBd = jax.lax.scan(step, start, (jnp.arange(patches), jnp.swapaxes(u_BNd, 0, 1)))
    return jnp.swapaxes(x_NBd, 0, 1)

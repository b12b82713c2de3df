"""The transporter u = f(x, t): causal flow blocks over patches that scan in alternating directions. Time 0 = data, 1 = noise.

A flow block is given as functions of a network that is blind to its own patch: output n depends on patches before n only. Of each
patch it makes u_n = (x_n - μ_n) / σ_n, number by number as in arXiv 2605.08078, or, where the network has a third output, [D]
u_n = M_n (x_n - μ_n) / σ_n with a lower triangular M_n of unit diagonal, so that the numbers of one patch may depend on each
other too. Either has the log-determinant -Σ log σ_n, and is inverted patch by patch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LIMIT = 5.0  # of |log σ|, approached softly


class Affine(NamedTuple):
    """The map of a patch, or of many.

    Attributes:
      mean: μ, [..., d].
      log_scale: log σ before `soft_limit`, [..., d].
      mix: the d (d - 1) / 2 numbers of M below its diagonal, row by row; None where M is the identity.
    """

    mean: jax.Array
    log_scale: jax.Array
    mix: jax.Array | None = None


class Network(NamedTuple):
    """A causal network as functions; `time_BM` are the times that it is told.

    Attributes:
      parallel: (params, x_BNd, time_BM) -> Affine of all patches, that of n from patches before n.
      begin: number of rows -> an empty cache.
      step: (params, cache, previous_Bd, place, time_BM) -> (Affine of patch `place`, given the patch before; cache).
    """

    parallel: Callable[..., Affine]
    begin: Callable[[int], Any]
    step: Callable[..., tuple[Affine, Any]]


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
        affine = network.parallel(weights, x_BNd, time_BM)
        x_BNd = turned(apply(affine, x_BNd), number)
        log_scale_B = log_scale_B + soft_limit(affine.log_scale).sum(axis=(1, 2))
    return x_BNd, log_scale_B


def inverse(network, params, u_BNd, time_BM):
    """x_BNd such that `forward` gives u: block by block from the last, each patch by patch with a cache."""
    for number, weights in reversed(list(enumerate(params))):
        u_BNd = turned(_inverse_block(network, weights, turned(u_BNd, number), time_BM), number)
    return u_BNd


def apply(affine, x):
    """u of patches x, [..., d]."""
    x = x - affine.mean
    if affine.mix is not None:
        x = jnp.einsum("...ij,...j->...i", triangle(affine.mix, x.shape[-1]), x)
    return x * jnp.exp(-soft_limit(affine.log_scale))


def undo(affine, u):
    """x of patches u, [..., d]."""
    x = u * jnp.exp(soft_limit(affine.log_scale))
    if affine.mix is not None:
        lower = triangle(affine.mix, u.shape[-1])
        x = jax.lax.linalg.triangular_solve(lower, x[..., None], left_side=True, lower=True, unit_diagonal=True)[..., 0]
    return x + affine.mean


def triangle(mix, size):
    """M of its numbers below the diagonal: [..., d, d]."""
    places = jnp.tril_indices(size, -1)
    unit = jnp.broadcast_to(jnp.eye(size), (*mix.shape[:-1], size, size))
    return unit.at[..., places[0], places[1]].set(mix)


def turned(x_BNd, number):
    """The patches in the order in which flow block `number` scans them: its own inverse."""
    return x_BNd[:, ::-1] if number % 2 else x_BNd


def _inverse_block(network, weights, u_BNd, time_BM):
    def step(carry, given):
        (cache, previous_Bd), (place, u_Bd) = carry, given
        affine, cache = network.step(weights, cache, previous_Bd, place, time_BM)
        x_Bd = undo(affine, u_Bd)
        return (cache, x_Bd), x_Bd

    rows, patches = u_BNd.shape[:2]
    start = network.begin(rows), jnp.zeros_like(u_BNd[:, 0])
    _, x_NBd = jax.lax.scan(step, start, (jnp.arange(patches), jnp.swapaxes(u_BNd, 0, 1)))
    return jnp.swapaxes(x_NBd, 0, 1)

"""Exact categorical draws by prefix sums, any number of them from one posterior.

A float32 Gumbel draw loses the tail of a large vocabulary. Here a posterior is summed once, in two levels: blocks of
tokens, then the tokens of a block. A draw finds a block with one uniform number and a token in it with another. So
the tail keeps its relative precision, and a further draw needs no pass over V.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

LANES = 128  # a TPU stores the last axis of an array in rows of this many elements, and copies blocks of other sizes into such rows


class Table(NamedTuple):
    """Unnormalised masses of [..., V], cut into blocks: `mass` [..., blocks, size] and `block` [..., blocks]."""

    mass: jax.Array
    block: jax.Array


def table(weight):
    """Cut non-negative weights [..., V] into blocks of about sqrt(V), a multiple of LANES, and sum each one."""
    v = weight.shape[-1]
    size = min(v, math.ceil(math.sqrt(v) / LANES) * LANES)
    padding = [(0, 0)] * (weight.ndim - 1) + [(0, -v % size)]
    weight = weight.astype(jnp.float32)
    mass = jnp.pad(weight, padding).reshape(*weight.shape[:-1], -1, size)
    window_sums = functools.partial(_window_sums, size=size, padding=padding)
    # A TPU would write the padded copy before it sums it: there the sum reads `weight` itself. Elsewhere it reads the blocks.
    return Table(mass, jax.lax.platform_dependent(weight, mass, tpu=window_sums, default=lambda _, mass: mass.sum(axis=-1)))


def _window_sums(weight, _, *, size, padding):
    window = (1,) * (weight.ndim - 1) + (size,)
    return jax.lax.reduce_window(weight, 0.0, jax.lax.add, window, window, padding)


def _search(u, mass):
    """The first index with positive mass and a prefix sum above u x total.

    Parallel prefix sums need not be monotone in floating point, and may differ between two computations. An index must have
    positive mass, and the fallback is the last index that has, so that an impossible token stays impossible.
    """
    has_mass, place = mass > 0, jnp.arange(mass.shape[-1]).reshape((1,) * (mass.ndim - 1) + (-1,))
    prefix = jnp.where(has_mass, jnp.cumsum(mass, axis=-1), 0.0)
    reached = has_mass & (prefix > u[..., None] * prefix.max(axis=-1, keepdims=True))
    last_place = jnp.where(has_mass, place, 0).max(axis=-1)
    return jnp.where(reached, place, last_place[..., None]).min(axis=-1).astype(jnp.int32)


def pick(u_block, u_token, tab):
    """One draw from each row of a table, from two uniform numbers in [0, 1) each: int32 [...]."""
    block = _search(u_block, tab.block)
    token_mass = jnp.take_along_axis(tab.mass, block[..., None, None], axis=-2)[..., 0, :]
    return block * tab.mass.shape[-1] + _search(u_token, token_mass)


def categorical(key, weight):
    """One exact draw from each row of non-negative weights [..., V]: int32 [...]."""
    a, b = jax.random.split(key)
    shape = weight.shape[:-1]
    return pick(jax.random.uniform(a, shape), jax.random.uniform(b, shape), table(weight))

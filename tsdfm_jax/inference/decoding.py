"""Text from a causal network, token by token from left to right, with a cache of keys and values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import draw, path as paths, sampler
from tsdfm_jax.models import causal


class State(NamedTuple):
    """Unfinished texts: `x_BL`, where the first tokens are written, and the network's Cache of the tokens that it has read."""

    x_BL: jax.Array
    cache: causal.Cache


def start(key_B, cfg, given_BL):
    """A State without any text, and the keys of the tokens that follow: (State, key_B)."""
    return State(jnp.zeros_like(given_BL), causal.empty_cache(cfg, given_BL.shape[0])), key_B


def advance(key_B, decode, state, first, last, bos, given_BL, fixed_BL, cfg):
    """Write the tokens `first` … `last` - 1; both numbers may be traced.

    `decode(cache, x_B) -> (logits_BV, cache)` is the network: each call reads the token before the one to write, which is
    `bos` for the first token. Positions of `fixed_BL` get their token from `given_BL`. Each draw is exact (flow/draw) and
    depends only on its text's key and its position. `cfg` is a sampler.SamplerConfig: temperature and top_p.
    """

    def write(i, state):
        previous_B = jnp.where(i == 0, bos, jnp.take(state.x_BL, jnp.maximum(i - 1, 0), axis=1))
        logits_BV, cache = decode(state.cache, previous_B)
        p_BV = jax.nn.softmax(sampler.sharpen(logits_BV[:, None], cfg)[:, 0], axis=-1)
        drawn_B = jax.vmap(draw.categorical)(paths.fold(key_B, i), p_BV)
        x_B = jnp.where(jnp.take(fixed_BL, i, axis=1), jnp.take(given_BL, i, axis=1), drawn_B)
        return State(jax.lax.dynamic_update_slice_in_dim(state.x_BL, x_B[:, None], i, axis=1), cache)

    return jax.lax.fori_loop(first, last, write, state)

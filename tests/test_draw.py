"""Exact draws by prefix sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tsdfm_jax.flow import draw


@pytest.mark.parametrize("v", [1, 2, 5, 16, 17, 300])
def test_law(v):
    """Draws follow the weights, which need not sum to one; a symbol of no mass is never drawn."""
    weight = np.random.default_rng(v).gamma(0.5, size=v) * 7
    weight[v // 2 :: 3] = 0.0 if v > 2 else 1.0
    tab = draw.table(jnp.asarray(weight, jnp.float32)[None].repeat(40_000, axis=0))
    a, b = jax.random.split(jax.random.key(0))
    drawn = draw.pick(jax.random.uniform(a, (40_000,)), jax.random.uniform(b, (40_000,)), tab)
    chance.assert_law(drawn, weight / weight.sum())


def test_tail_of_a_large_vocabulary():
    """A tail of mass 5 % spread over a thousand symbols of 5e-5 each is visited 5 % of the time, at V = 50,257."""
    v, n = 50_257, 1_000_000
    weight = np.zeros(v, np.float32)
    weight[:1000], weight[-1] = 5e-5, 0.95
    tab = draw.table(jnp.asarray(weight))
    a, b = jax.random.split(jax.random.key(1))
    one = jax.jit(jax.vmap(lambda u, w: draw.pick(u, w, tab)))
    drawn = np.concatenate(
        [one(u, w) for u, w in zip(jax.random.uniform(a, (100, n // 100)), jax.random.uniform(b, (100, n // 100)))]
    )
    chance.assert_law((drawn < 1000).astype(int), [0.95, 0.05])
    chance.assert_law(drawn[drawn < 1000], np.full(1000, 1e-3))


def test_extreme_uniforms_stay_possible():
    """The smallest and the largest uniform number float32 can make find a symbol that has mass."""
    weight = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0])
    for u in (0.0, 1.0 - 2.0**-23):
        assert int(draw.pick(jnp.float32(u), jnp.float32(u), draw.table(weight))) in (1, 3)

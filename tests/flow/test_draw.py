"""Exact draws by prefix sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tsdfm_jax.flow import draw


@pytest.mark.parametrize("v", [1, 2, 5, 16, 17, 300])
def test_law(v):
    """Draws follow the weights, which need not sum to one; a token of zero mass is never drawn."""
    weight = np.random.default_rng(v).gamma(0.5, size=v) * 7
    weight[v // 2 :: 3] = 0.0 if v > 2 else 1.0
    tab = draw.table(jnp.asarray(weight, jnp.float32)[None].repeat(40_000, axis=0))
    a, b = jax.random.split(jax.random.key(0))
    drawn = draw.pick(jax.random.uniform(a, (40_000,)), jax.random.uniform(b, (40_000,)), tab)
    chance.assert_law(drawn, weight / weight.sum())


def test_extreme_uniforms_stay_possible():
    """The smallest and the largest float32 uniform number both give a token with mass."""
    weight = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0])
    for u in (0.0, 1.0 - 2.0**-23):
        assert int(draw.pick(jnp.float32(u), jnp.float32(u), draw.table(weight))) in (1, 3)


@pytest.mark.parametrize("v", [5, 128, 300, 20_000])
def test_a_tpus_sums_are_the_blocks(v):
    """The TPU's window sums equal the block sums; a block is a multiple of its lanes unless V is smaller."""
    weight = jnp.asarray(np.random.default_rng(0).gamma(0.5, size=(3, v)), jnp.float32)
    tab = draw.table(weight)
    blocks, size = tab.mass.shape[1:]
    assert size == v if v < draw.LANES else size % draw.LANES == 0 and blocks * size - v < size <= 2 * max(v**0.5, draw.LANES)
    np.testing.assert_array_equal(tab.mass.reshape(3, -1)[:, :v], weight)
    sums = draw._window_sums(weight, tab.mass, size=size, padding=[(0, 0), (0, blocks * size - v)])
    np.testing.assert_allclose(sums, tab.block, rtol=1e-6)

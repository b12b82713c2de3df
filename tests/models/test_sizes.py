"""Numbers of parameters by arithmetic are those of the networks."""

import jax
import pytest

from tsdfm_jax.models import patches, sizes, transformer

SHAPE = dict(rows=3, columns=5, features=7, blocks=3, width=24, heads=6, cond_width=10)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"kv_heads": 2, "mlp_ratio": 1, "classes": 11},
        {"vector": 13, "times": 3, "scale": True},
        {"causal": True, "scale": True, "mix": True, "times": 2, "dtype": "bfloat16"},
        {"causal": True, "scale": True, "mix": True},
    ],
)
def test_patches(more):
    """Every key of a PatchConfig that changes the number changes the arithmetic with it."""
    cfg = patches.PatchConfig(**SHAPE | more)
    counted = transformer.parameters(jax.eval_shape(lambda: patches.init(jax.random.key(0), cfg)))
    assert sizes.patches(cfg) == counted
    assert sizes.trajectory_model(cfg, cfg, 2) == 3 * counted

"""The package's own networks at a size of a few hundred weights, none of them zero. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import ntm_base
from tsdfm_jax.models import patches
from tsdfm_jax.normalizing import networks
from tsdfm_jax.runtime import mesh as meshes

SIZES = {"kernel": 1.0, "embedding": 1.0, "scale": 0.1, "bias": 0.1, "position": 0.5, "null": 1.0}
SHAPE = networks.Shape(image=(4, 6, 2), patch=2, classes=3)  # 6 patches of 8 numbers


def config(**changes):
    """The defaults with small networks, and some keys changed by their dotted names."""
    c = ntm_base.get_config()
    with c.unlocked():
        c.model.update(blocks=1, width=8, heads=2, cond_width=8, mlp_ratio=2)
        c.update_from_flattened_dict(changes)
    return c


def random(seed, tree, size=1.0):
    """Weights of the shapes of a tree, boxed or not: what is born as zero is drawn too. `size` scales all but the norms."""
    rng = np.random.default_rng(seed)

    def draw(where, leaf):
        name = where[-1].key
        spread = SIZES[name] / np.sqrt(leaf.shape[-2] if name == "kernel" else 1)
        return jnp.asarray(rng.normal(size=leaf.shape) * spread * size + (name == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, meshes.unbox(tree))


def weights(c, shape, model="ntm", seed=0, size=0.5):
    """Weights of a trajectory model."""
    return random(seed, jax.eval_shape(lambda: networks.init(jax.random.key(0), c, shape, model)), size)


def network(cfg, seed=0, size=0.5):
    """Weights of one network."""
    return random(seed, jax.eval_shape(lambda: patches.init(jax.random.key(0), cfg)), size)


def normal(seed, *shape):
    """Standard normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def uniform(seed, *shape):
    """Numbers in [0, 1), float32."""
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def off(found, wanted):
    """The largest difference."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64))))

"""Models of images made by hand from random weights, small and without a training."""

import jax
import numpy as np

from tsdfm_jax.models import autoencoder
from tsdfm_jax.normalizing import model as models, networks, opening, trained
from tsdfm_jax.runtime import checkpoint, mesh as meshes

SHAPE = {"blocks": 1, "width": 8, "heads": 2, "kv_heads": 0, "cond_width": 8, "mlp_ratio": 2, "dtype": "float32"}


def told(image=(4, 4, 2), classes=0, vector=0, latents=False, drop=0.1):
    """What a small model says of itself."""
    return {
        "data": {"image": list(image), "patch": 2, "classes": classes, "vector": vector},
        "model": SHAPE,
        "transporter": {"flows": 1, "blocks": 1, "map": "triangular"},
        "levels": {"steps": [1, 2], "shift": 0.3, "end": 0.05},
        "drop": drop,
        "clip": 1.0,
        "latents": latents,
    }


def random(params, seed=0):
    """Random numbers in place of all weights, so that nothing is born zero."""
    leaves, tree = jax.tree.flatten(meshes.unbox(params))
    chance = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [np.asarray(0.1 * chance.normal(size=leaf.shape), np.float32) for leaf in leaves])


def parts(names=(), coder=None, **about):
    """The opening.Parts of a model ntm; `coder` is the shape of an autoencoder."""
    said = told(**about)
    config, shape = opening.settings_of(said)
    params = random(networks.init(jax.random.key(0), config, shape, "ntm"))
    return opening.Parts(
        title="ntm of hand",
        model="ntm",
        told=said,
        config=config,
        shape=shape,
        names=names,
        network=trained.Network(params=params, hash=checkpoint.tree_hash(params)),
        denoiser=None,
        no_denoiser="none was made",
        autoencoder=coder and (coder, random(autoencoder.init(jax.random.key(1), coder), 1)),
    )


def model(**about):
    """A models.Model on one device."""
    return models.Model(parts(**about), meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1]))

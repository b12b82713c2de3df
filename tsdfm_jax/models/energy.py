"""The compass network: a score of each position of a sequence at time t, and the energy of the whole sequence."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tsdfm_jax.models import transformer


class Energy(nn.Module):
    """E(x, t), low for real text: `apply({"params": p}, x_BL, t_B)` -> (energy_B, score_BL), float32.

    The blocks have the teacher's architecture. Two heads give a position's score and its share of the energy, which is the
    mean of the shares times a learned scale. With one head for both, the energy would be a mean of ratios of single positions,
    not the log ratio of the two joint distributions (a test in tests/laws measures it). [D]
    """

    cfg: transformer.TransformerConfig

    @nn.compact
    def __call__(self, x_BL, t_B, deterministic=True):
        cfg = self.cfg
        cond_BC = transformer.Conditioning(cfg, name="conditioning")(t_B, None)
        x_BLD = transformer.look_up(transformer.embedding(cfg), x_BL)
        x_BLD, _ = transformer.stack(transformer.Block, cfg, name="blocks")(x_BLD, cond_BC, deterministic)
        y_BLD = transformer.layer_norm("norm_final")(x_BLD)
        head = functools.partial(transformer.dense, 1, "embed", "features", dtype=jnp.float32, kernel_init=nn.initializers.zeros)
        score_BL, share_BL = (head(name=name)(y_BLD)[..., 0] for name in ("score", "share"))
        scale = self.param("scale", nn.initializers.constant(jnp.sqrt(1.0 * x_BL.shape[1])), ())
        return scale * share_BL.mean(axis=-1), score_BL


def init(key, cfg, length):
    """Initial parameters, boxed with their logical axes."""
    return Energy(cfg).init(key, jnp.zeros((1, length), jnp.int32), jnp.zeros((1,)))["params"]


def apply(cfg, params, x_BL, t_B, dropout_key=None):
    """(energy_B, score_BL) of a batch of sequences."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return Energy(cfg).apply({"params": params}, x_BL, t_B, dropout_key is None, rngs=rngs)


def overlay(params, teacher):
    """Start a (boxed) compass from its teacher's embedding, conditioning and lowest blocks (equal widths)."""
    blocks = jax.tree.leaves(params["blocks"])[0].shape[0]
    lower = jax.tree.map(lambda w: w[:blocks], teacher["blocks"])
    return transformer.overlay(params, {**{k: teacher[k] for k in ("vocab_embed", "conditioning")}, "blocks": lower})

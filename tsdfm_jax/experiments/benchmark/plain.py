"""Plain versions of the losses and scores over V: the benchmark's baseline and the tests' reference."""

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import path as paths


def log_p(path, logits_BLV):
    """The log posterior as a full array [B, L, V]."""
    return jax.nn.log_softmax(paths.data_logits(path, logits_BLV), axis=-1)


def at(values_BLV, x_BL):
    return jnp.where(jnp.arange(values_BLV.shape[-1])[None, None] == x_BL[..., None], values_BLV, 0.0).sum(axis=-1)


def generalised_kl(path, logits_BLV, x_1_BL, x_t_BL, t_B):
    logp_BLV, same_BL = log_p(path, logits_BLV), x_t_BL == x_1_BL
    at_t_BL = 1.0 * same_BL if path.masked else jnp.exp(at(logp_BLV, x_t_BL))
    return -paths.rate(path, t_B)[:, None] * (at_t_BL - same_BL + jnp.where(same_BL, 0.0, at(logp_BLV, x_1_BL)))


def cross_entropy(path, logits_BLV, x_1_BL, x_t_BL, t_B):
    return jnp.where(paths.free_BL(path, x_t_BL), -at(log_p(path, logits_BLV), x_1_BL), 0.0)


def distillation_kl(path, target_BLV, logits_BLV, x_t_BL):
    target_logp, logp = log_p(path, jax.lax.stop_gradient(target_BLV)), log_p(path, logits_BLV)
    finite = jnp.isfinite(target_logp)
    kl_BL = jnp.where(finite, jnp.exp(target_logp) * (target_logp - jnp.where(finite, logp, 0.0)), 0.0).sum(axis=-1)
    return jnp.where(paths.free_BL(path, x_t_BL), kl_BL, 0.0)


def negative_log_posterior(path, logits_BLV, x_BL):
    return -at(log_p(path, logits_BLV), x_BL)


def entropy(path, logits_BLV, x_BL):
    logp_BLV = log_p(path, logits_BLV)
    entropy_BL = -(jnp.exp(logp_BLV) * jnp.where(jnp.isfinite(logp_BLV), logp_BLV, 0.0)).sum(axis=-1)
    return jnp.where(paths.free_BL(path, x_BL), entropy_BL, 0.0)

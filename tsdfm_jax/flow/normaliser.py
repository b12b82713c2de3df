"""Sums over a softmax of a large V, for losses and scores: few passes over the logits, and no second array of their size.

A sum over V gives one number at each position. The backward pass keeps only these numbers and the logits in their own dtype.
It computes softmax(logits) = exp(logits - top) / total again, inside the one expression that writes the logits' gradient: in
float32, then cast to the logits' dtype. [D]
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import path as paths

BLOCK = 1024  # tokens read at once on a CPU: the block of some thousand positions fits its cache
LOWEST = -1e30  # replaces the highest logit where all are -inf: exp(-inf - LOWEST) is 0
LEAST = -128.0  # its exp is 0 in float32: a token this far below the highest logit has no mass. Clipping here avoids 0 x -inf


class Normaliser(NamedTuple):
    """The highest logit, and the sum of exp(logit - top): log-sum-exp as two numbers, exact for logits with a large offset."""

    top_BL: jax.Array
    total_BL: jax.Array


def _normaliser(logits_BLV):
    top_BL = jnp.maximum(logits_BLV.max(axis=-1), LOWEST)
    return Normaliser(top_BL, jnp.exp(logits_BLV - top_BL[..., None]).sum(axis=-1))


def _join(a, b):
    top_BL = jnp.maximum(a.top_BL, b.top_BL)
    return Normaliser(top_BL, sum(part.total_BL * jnp.exp(part.top_BL - top_BL) for part in (a, b)))


def _sums(path, part, join, *logits):
    """`part(*logits)`, numbers at each position summed over the data's tokens; `join` combines those of two blocks.

    XLA's CPU backend writes the terms of a sum over V to an array. So on a CPU a loop reads a block of tokens at a time,
    along V, which no mesh splits. A TPU or a GPU computes the terms while it sums them.
    """
    text_vocab = logits[0].shape[-1] - path.masked

    def blocked(*logits):
        read_block = lambda start, size: (jax.lax.dynamic_slice_in_dim(a, start, size, axis=-1).astype(jnp.float32) for a in logits)
        first = text_vocab % BLOCK or BLOCK
        add_block = lambda i, sums: join(sums, part(*read_block(first + i * BLOCK, BLOCK)))
        return jax.lax.fori_loop(0, text_vocab // BLOCK - (first == BLOCK), add_block, part(*read_block(0, first)))

    whole = lambda *logits: part(*(paths.data_logits(path, a) for a in logits))
    return jax.lax.platform_dependent(*logits, cpu=blocked, default=whole) if text_vocab > BLOCK else whole(*logits)


def _weights(path, logits_BLV, norm):
    """exp(logit - top) of every token, 0 for the mask token: the softmax times its total."""
    return jnp.exp(paths.data_logits(path, logits_BLV) - norm.top_BL[..., None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_p(path, logits_BLV, *x_BL):
    """log p(x | x_t) = x's logit - log-sum-exp, for each array of tokens in `x_BL`: a list of float32 [B, L].

    -inf at the mask token. With g the gradients of the results, the logits' gradient is sum g (1{v = x}) - p sum g.
    """
    return _log_p(path, logits_BLV, *x_BL)[0]


def _log_p(path, logits_BLV, *x_BL):
    norm = _sums(path, _normaliser, _join, logits_BLV)
    log_total_BL = jnp.log(norm.total_BL)
    return [at_BL - norm.top_BL - log_total_BL for at_BL in (_at(path, logits_BLV, x) for x in x_BL)], (logits_BLV, norm, x_BL)


def _at(path, logits_BLV, x_BL):
    at_BL = paths.at(logits_BLV, x_BL).astype(jnp.float32)
    return jnp.where(x_BL == path.mask_id, -jnp.inf, at_BL) if path.masked else at_BL


def _log_p_back(path, residuals, g_BL):
    logits_BLV, norm, x_BL = residuals
    share_BL = sum(g_BL) / norm.total_BL
    grad_BLV = -share_BL[..., None] * _weights(path, logits_BLV, norm)
    token_V = jnp.arange(logits_BLV.shape[-1])[None, None]
    for x, g in zip(x_BL, g_BL):  # a comparison, not a scatter
        g = jnp.where(x == path.mask_id, 0.0, g) if path.masked else g
        grad_BLV += jnp.where(token_V == x[..., None], g[..., None], 0.0)
    return grad_BLV.astype(logits_BLV.dtype), *(None for _ in x_BL)


log_p.defvjp(_log_p, _log_p_back)


class _Tilted(NamedTuple):
    """A Normaliser, and the sum of exp(d) d with d = logit - top."""

    norm: Normaliser
    tilted_BL: jax.Array


def _tilted(logits_BLV):
    norm = _normaliser(logits_BLV)
    below_BLV = jnp.maximum(logits_BLV - norm.top_BL[..., None], LEAST)
    return _Tilted(norm, (jnp.exp(below_BLV) * below_BLV).sum(axis=-1))


def _join_tilted(a, b):
    norm = _join(a.norm, b.norm)
    shifted = ((part, part.norm.top_BL - norm.top_BL) for part in (a, b))
    return _Tilted(norm, sum((part.tilted_BL + part.norm.total_BL * shift) * jnp.exp(shift) for part, shift in shifted))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def entropy(path, logits_BLV):
    """The posterior's entropy H = log total - sum p (logit - top) in nats at each position: [B, L].

    Neither term is negative, so a large offset of the logits loses no digits. The gradient is -p (log p + H).
    """
    return _entropy(path, logits_BLV)[0]


def _entropy(path, logits_BLV):
    sums = _sums(path, _tilted, _join_tilted, logits_BLV)
    entropy_BL = jnp.log(sums.norm.total_BL) - sums.tilted_BL / sums.norm.total_BL
    return entropy_BL, (logits_BLV, sums.norm, entropy_BL)


def _entropy_back(path, residuals, g_BL):
    logits_BLV, norm, entropy_BL = residuals
    below_BLV = jnp.maximum(paths.data_logits(path, logits_BLV) - norm.top_BL[..., None], LEAST)
    offset_BL, share_BL = entropy_BL - jnp.log(norm.total_BL), g_BL / norm.total_BL
    grad_BLV = -share_BL[..., None] * jnp.exp(below_BLV) * (below_BLV + offset_BL[..., None])
    return (grad_BLV.astype(logits_BLV.dtype),)


entropy.defvjp(_entropy, _entropy_back)


def mean(path, logits_BLV, value_V):
    """The posterior's mean of a number per token: [B, L]. The mask token's number has no weight."""
    norm = _sums(path, _normaliser, _join, logits_BLV)
    weights_BLV = _weights(path, logits_BLV, norm)
    return weights_BLV @ value_V.astype(jnp.float32) / norm.total_BL


class _Pair(NamedTuple):
    """Normalisers of a target and of logits, and the sum of exp(a) (a - b), where a and b are the logits - top of the two."""

    target: Normaliser
    norm: Normaliser
    cross_BL: jax.Array


def _pair(target_BLV, logits_BLV):
    target, norm = _normaliser(target_BLV), _normaliser(logits_BLV)
    a_BLV, b_BLV = target_BLV - target.top_BL[..., None], logits_BLV - norm.top_BL[..., None]
    weight_BLV = jnp.exp(a_BLV)
    return _Pair(target, norm, jnp.where(weight_BLV > 0, weight_BLV * (a_BLV - b_BLV), 0.0).sum(axis=-1))


def _join_pairs(a, b):
    target, norm, cross_BL = _join(a.target, b.target), _join(a.norm, b.norm), 0.0
    for part in (a, b):
        shift = part.target.top_BL - target.top_BL
        difference = shift - (part.norm.top_BL - norm.top_BL)
        cross_BL += (part.cross_BL + part.target.total_BL * difference) * jnp.exp(shift)
    return _Pair(target, norm, cross_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def divergence(path, target_BLV, logits_BLV):
    """KL(q || p) = sum q (log q - log p) in nats at each position, q = softmax(target), p = softmax(logits): [B, L].

    A token without mass in the target adds nothing, whatever p is there. The logits' gradient is p - q; the target is frozen
    and gets none.
    """
    return _divergence(path, target_BLV, logits_BLV)[0]


def _divergence(path, target_BLV, logits_BLV):
    sums = _sums(path, _pair, _join_pairs, target_BLV, logits_BLV)
    kl_BL = sums.cross_BL / sums.target.total_BL + jnp.log(sums.norm.total_BL / sums.target.total_BL)
    return kl_BL, (target_BLV, sums.target, logits_BLV, sums.norm)


def _divergence_back(path, residuals, g_BL):
    target_BLV, target, logits_BLV, norm = residuals
    p_BLV = _weights(path, logits_BLV, norm) / norm.total_BL[..., None]
    q_BLV = _weights(path, target_BLV, target) / target.total_BL[..., None]
    return None, (g_BL[..., None] * (p_BLV - q_BLV)).astype(logits_BLV.dtype)


divergence.defvjp(_divergence, _divergence_back)

"""The look-ahead: a compass that asks the posterior itself how coherent a candidate is. [D]"""

import jax.numpy as jnp

from tsdfm_jax.flow import losses, path as paths

SCORES = ("nll", "entropy")


def lookahead(path, posterior, x_BL, t_B, h_B, score):
    """(energy_B, score_BL) of candidates x_BL at their time: the scores' mean is the energy, in nats.

    `entropy`: of the posterior at every position that may still change. `nll`: -log p(x^i | x). Under the mask source
    an unmasked symbol has a point mass for posterior, so there every other symbol is hidden and asked for, first the
    even places and then the odd ones, at the time that has so many masks: two passes instead of one.
    """
    if score == "entropy":
        score_BL = losses.entropy(path, posterior(x_BL, t_B, h_B), x_BL)
    elif path.masked:
        score_BL = _hidden_halves(path, posterior, x_BL, t_B, h_B)
    else:
        score_BL = losses.negative_log_posterior(path, posterior(x_BL, t_B, h_B), x_BL)
    return score_BL.mean(axis=-1), score_BL


def _hidden_halves(path, posterior, x_BL, t_B, h_B):
    half_t_B = (paths.kappa(path, t_B) / 2) ** (1 / path.exponent)
    even_L = jnp.arange(x_BL.shape[1]) % 2 == 0
    total_BL = jnp.zeros(x_BL.shape)
    for hidden_L in (even_L, ~even_L):
        ask_BL = hidden_L[None] & (x_BL != path.mask_id)
        logits_BLV = posterior(jnp.where(ask_BL, path.mask_id, x_BL), half_t_B, h_B)
        total_BL += jnp.where(ask_BL, losses.negative_log_posterior(path, logits_BLV, x_BL), 0.0)
    return total_BL

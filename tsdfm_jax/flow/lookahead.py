"""The look-ahead: a compass that reads the coherence of a candidate from the posterior itself. [D]"""

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import losses, normaliser, path as paths

SCORES = ("nll", "entropy", "hidden")
PRIOR_ROWS = 16  # sequences of noise over which the posterior is averaged to get token frequencies


def lookahead(path, posterior, x_BL, t_B, h_B, score, prior_V=None):
    """(energy_B, score_BL) of candidates x_BL at their time, in nats; the energy is the mean of the scores.

    `entropy`: the posterior's entropy at every position that may still change. `nll`: -log p(x^i | x). Under the mask source
    the posterior of an unmasked token is a point mass. So `nll` hides every second token there and scores the hidden ones,
    first at even positions and then at odd ones, at the time that fits the number of masks: two passes instead of one.
    `hidden` does so under both sources; the uniform source replaces tokens by noise, the same for all sequences.

    `prior_V`, if given, is added at each token (`nll`, `hidden`), or its mean under the posterior (`entropy`). With the log
    frequencies of the tokens (`log_prior`) the score then measures what the context says, not how common a token is:
    -log p/q, and -KL(p || q).
    """
    if score == "entropy":
        logits_BLV = posterior(x_BL, t_B, h_B)
        score_BL = losses.entropy(path, logits_BLV, x_BL)
        if prior_V is not None:
            score_BL += jnp.where(paths.free_BL(path, x_BL), normaliser.mean(path, logits_BLV, prior_V), 0.0)
        return score_BL.mean(axis=-1), score_BL
    if hides(path.masked, score):
        score_BL = _hidden_halves(path, posterior, x_BL, t_B, h_B)
    else:
        score_BL = losses.negative_log_posterior(path, posterior(x_BL, t_B, h_B), x_BL)
    if prior_V is not None:
        score_BL += prior_V[x_BL]
    return score_BL.mean(axis=-1), score_BL


def hides(masked, score):
    """Whether a score hides every token in turn, in two passes instead of one."""
    return score == "hidden" or (score == "nll" and masked)


def log_prior(path, posterior, length, h):
    """The log frequency of each token, [V], from the posterior's mean over pure noise, which carries no context.

    0 at the mask token. The noise is always the same.
    """
    x_BL = paths.sample_source(jax.random.split(jax.random.key(0), PRIOR_ROWS), path, length)
    logits_BLV = posterior(x_BL, jnp.zeros(PRIOR_ROWS), jnp.full(PRIOR_ROWS, h))
    p_V = jax.nn.softmax(paths.data_logits(path, logits_BLV), axis=-1).mean(axis=(0, 1))
    return jnp.where(p_V > 0, jnp.log(jnp.maximum(p_V, jnp.finfo(p_V.dtype).tiny)), 0.0)


def _hidden_halves(path, posterior, x_BL, t_B, h_B):
    half_t_B = (paths.kappa(path, t_B) / 2) ** (1 / path.exponent)
    even_L = jnp.arange(x_BL.shape[1]) % 2 == 0
    replacement_BL = paths.sample_source(jax.random.split(jax.random.key(0), 1), path, x_BL.shape[1])
    known_BL = x_BL != path.mask_id if path.masked else jnp.ones(x_BL.shape, bool)
    total_BL = jnp.zeros(x_BL.shape)
    for hidden_L in (even_L, ~even_L):
        scored_BL = hidden_L[None] & known_BL
        logits_BLV = posterior(jnp.where(scored_BL, replacement_BL, x_BL), half_t_B, h_B)
        total_BL += jnp.where(scored_BL, losses.negative_log_posterior(path, logits_BLV, x_BL), 0.0)
    return total_BL

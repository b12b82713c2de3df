"""Losses and the ELBO: generalised KL, cross-entropy, distillation KL, noise-contrastive estimation. All in float32."""

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import normaliser, path as paths

LAST_TIME = 1.0 - 1e-3  # last training time: the generalised KL's weight kappa'/(1 - kappa) has no bound as t goes to 1
NEAREST = 1e-3  # the ELBO's times end at 1 - NEAREST^2, which float32 tells from 1; less than 2e-5 nats per position are left out


def generalised_kl(path, logits_BLV, x_1_BL, x_t_BL, t_B):
    """The integrand of the negative ELBO, a bound on -log p(x_1), in nats at each position (2412.03487): [B, L].

    -kappa'/(1 - kappa) [p(x_t|x_t) - 1{x_t = x_1} + 1{x_t != x_1} log p(x_1|x_t)]. Under the mask source an unmasked
    token stays, its posterior is a point mass, and its term is zero.
    """
    same_BL = x_t_BL == x_1_BL
    if path.masked:
        (logp_BL,) = normaliser.log_p(path, logits_BLV, x_1_BL)
        p_t_BL = same_BL.astype(jnp.float32)
    else:
        logp_BL, logp_t_BL = normaliser.log_p(path, logits_BLV, x_1_BL, x_t_BL)
        p_t_BL = jnp.exp(logp_t_BL)
    term_BL = p_t_BL - same_BL + jnp.where(same_BL, 0.0, logp_BL)
    return -paths.rate(path, t_B)[:, None] * term_BL


def elbo(key, path, posterior, x_1_BL):
    """The negative ELBO, a bound on -log p(x_1), in nats at each position, estimated at one time per text: [B, L] (2412.03487).

    It is the generalised KL's integral over all t. The times are 1 - v^2 with v stratified over the batch, weighted by dt/dv:
    the square of the integrand grows like 1/(1 - t), so uniform times would have infinite variance, and times that end at
    LAST_TIME would give another number.
    """
    time_key, path_key = jax.random.split(key)
    v_B = NEAREST + paths.stratified_times(time_key, x_1_BL.shape[0], 1.0 - NEAREST)
    t_B, weight_B = 1.0 - v_B**2, 2.0 * v_B * (1.0 - NEAREST)
    x_t_BL = paths.sample_xt(jax.random.split(path_key, x_1_BL.shape[0]), path, x_1_BL, t_B)
    return weight_B[:, None] * generalised_kl(path, posterior(x_t_BL, t_B), x_1_BL, x_t_BL, t_B)


def cross_entropy(path, logits_BLV, x_1_BL, x_t_BL, t_B):
    """-log p(x_1 | x_t) in nats at each position that may still change: [B, L]."""
    del t_B
    return jnp.where(paths.free_BL(path, x_t_BL), negative_log_posterior(path, logits_BLV, x_1_BL), 0.0)


PATH_LOSSES = {"kl": generalised_kl, "cross_entropy": cross_entropy}


def check(name):
    """Return `name`; raise ValueError, one line with all path losses, if it is not one of them."""
    if name not in PATH_LOSSES:
        raise ValueError(f"loss '{name}' is not one of {', '.join(PATH_LOSSES)}")
    return name


def distillation_kl(path, target_BLV, logits_BLV, x_t_BL):
    """Forward KL(target || student) in nats at each position that may still change: [B, L]."""
    return jnp.where(paths.free_BL(path, x_t_BL), normaliser.divergence(path, target_BLV, logits_BLV), 0.0)


def nce(positive, negative):
    """softplus(E+) + softplus(-E-): at the optimum -E is the log ratio of the data's density to the generator's."""
    return jax.nn.softplus(positive) + jax.nn.softplus(-negative)


def negative_log_posterior(path, logits_BLV, x_BL):
    """-log p(x^i | ·) in nats at each position: [B, L]; infinite at the mask token."""
    return -normaliser.log_p(path, logits_BLV, x_BL)[0]


def entropy(path, logits_BLV, x_BL):
    """The posterior's entropy in nats at each position that may still change, 0 elsewhere: [B, L]."""
    return jnp.where(paths.free_BL(path, x_BL), normaliser.entropy(path, logits_BLV), 0.0)

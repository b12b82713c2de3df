"""The predictor in terms of a flow-matching network, whose Gaussian sampler it is born as. Time 0 = data, 1 = noise.

μ = from_t u + from_0 x̂_0 with x̂_0 = u - t v and q's posterior, σ = scale · exp(δ): arXiv 2605.08078, section 4.
"""

import jax.numpy as jnp

from tsdfm_jax.ntm import chain
from tsdfm_jax.ntm.transporter import soft_limit


def predicted(u_BNd, t_B, s_B, v_BNd, delta_BNd=None):
    """(mean, log σ) of u_s given u_t, from a velocity and the change of log σ; without it σ is the posterior's."""
    q = chain.posterior(*(chain.expand(time, u_BNd) for time in (s_B, t_B)))
    mean_BNd = q.from_t * u_BNd + q.from_0 * (u_BNd - chain.expand(t_B, u_BNd) * v_BNd)
    log_scale = jnp.broadcast_to(jnp.log(q.scale), u_BNd.shape)
    return mean_BNd, log_scale if delta_BNd is None else log_scale + soft_limit(delta_BNd)


def anchor(mean, u_BNd, t_B, s_B, v_BNd):
    """Mean square of a predictor's mean less that of a frozen flow-matching network with velocity v at x = u, [B]."""
    frozen_BNd, _ = predicted(u_BNd, t_B, s_B, v_BNd)
    return jnp.mean((mean - frozen_BNd) ** 2, axis=(1, 2))

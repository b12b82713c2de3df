"""The forward chain from data to noise, its levels and its reverse posterior. Time runs from 0 = data to 1 = noise.

Marginally x_t = (1 - t) x_0 + t ε. Letters: B batch, N patches, d numbers a patch, T steps, so that a trajectory has T + 1
levels; level 0 is the one nearest to data, level T is at time 1. Equations: arXiv 2605.08078, section 3; values by them, not by
its Table 3, which they contradict.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(from_t · x_t + from_0 · x_0, scale² I), for s < t."""

    from_t: jax.Array
    from_0: jax.Array
    scale: jax.Array


def levels(steps, shift):
    """The times σ_1 < … < σ_T = 1, float64 numpy; `shift` is μ: above 0 they lie nearer to 1."""
    part_T = np.arange(1, steps + 1) / steps
    return np.exp(shift) / (np.exp(shift) + 1.0 / part_T - 1.0)


def paper_shift(patches):
    """The paper's μ for a number of patches: 0.5 at 256, 1.15 at 4,096."""
    return 0.5 + 0.65 * (patches - 256) / (4096 - 256)


def schedule(first_B, steps, shift):
    """The times of trajectories whose level 0 is at `first_B`: t_BT, [B, T + 1]."""
    further_T = jnp.asarray(levels(steps, shift), jnp.float32)
    return jnp.concatenate([first_B[:, None], jnp.broadcast_to(further_T[None], (first_B.shape[0], steps))], axis=1)


def transition(s, t):
    """(α, σ) of x_t = α x_s + σ ε for s < t."""
    alpha = (1.0 - t) / (1.0 - s)
    return alpha, jnp.sqrt(t**2 - (alpha * s) ** 2)


def posterior(s, t):
    """The Posterior for times s < t, elementwise."""
    further = t + s - 2.0 * t * s
    square = (t**2) * (1.0 - s)
    scale = s * jnp.sqrt((t - s) * further) / (t * (1.0 - s))
    return Posterior(s**2 * (1.0 - t) / square, (t - s) * further / square, scale)


def covariance(t_T):
    """Covariance of one number of x over all levels, given x_0: [T + 1, T + 1], or batched over leading axes."""
    low = jnp.minimum(t_T[..., :, None], t_T[..., None, :])
    high = jnp.maximum(t_T[..., :, None], t_T[..., None, :])
    # At time 1 a level shares nothing with the others: 0/0 where both are 1.
    return low**2 * jnp.where(low == high, 1.0, (1.0 - high) / jnp.where(low == high, 1.0, 1.0 - low))


def expand(t, x):
    """Numbers for each row, or for each row and level, with axes of size one added to the end, so that they multiply x."""
    return t.reshape(*t.shape, *(1,) * (x.ndim - t.ndim))


def sample(key_B, x_0_BNd, t_BT):
    """A trajectory of each row of data: xs_BTNd, [B, T + 1, N, d]. A row depends on its own key alone."""

    def one(key, x_0_Nd, t_T):
        noise_TNd = jax.random.normal(key, (t_T.shape[0], *x_0_Nd.shape))
        return _onward((1.0 - t_T[0]) * x_0_Nd + t_T[0] * noise_TNd[0], noise_TNd[1:], t_T)

    return jax.vmap(one)(key_B, x_0_BNd, t_BT)


def onward(key_B, x_BNd, t_BT):
    """A trajectory of each row that begins at this level 0, at t_BT[:, 0]: xs_BTNd, [B, T + 1, N, d]."""

    def one(key, x_Nd, t_T):
        return _onward(x_Nd, jax.random.normal(key, (t_T.shape[0] - 1, *x_Nd.shape)), t_T)

    return jax.vmap(one)(key_B, x_BNd, t_BT)


def _onward(first_Nd, noise_TNd, t_T):
    def step(x_Nd, given):
        s, t, noise_Nd = given
        alpha, sigma = transition(s, t)
        x_Nd = alpha * x_Nd + sigma * noise_Nd
        return x_Nd, x_Nd

    _, further_TNd = jax.lax.scan(step, first_Nd, (t_T[:-1], t_T[1:], noise_TNd))
    return jnp.concatenate([first_Nd[None], further_TNd])


def sample_pair(key_B, x_0_BNd, s_B, t_B):
    """Two consecutive levels of each row of data, (x_s, x_t), each [B, N, d]: those of `sample` in law."""
    xs_B2Nd = sample(key_B, x_0_BNd, jnp.stack([s_B, t_B], axis=1))
    return xs_B2Nd[:, 0], xs_B2Nd[:, 1]


def log_density(xs_BTNd, t_BT):
    """log q(x_1 … x_T | x_0) of the noised levels given level 0, in nats: [B]."""
    alpha_BT, sigma_BT = transition(t_BT[:, :-1], t_BT[:, 1:])
    alpha, sigma = (expand(value, xs_BTNd) for value in (alpha_BT, sigma_BT))
    return normal_log_density((xs_BTNd[:, 1:] - alpha * xs_BTNd[:, :-1]) / sigma, jnp.log(sigma))


def normal_log_density(z, log_scale):
    """Σ log N(μ + z·σ; μ, σ²) over all axes but the first: [B]; `log_scale` is log σ, in a shape that broadcasts to z's."""
    each = -0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi)
    return each.reshape(each.shape[0], -1).sum(axis=1)

"""Drawing images with a model of a config, and what follows its last step. Time runs from 0 = data to 1 = noise.

Image i of a seed is a function of the seed and i, whatever the batch that it is drawn in.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.models import patches
from tsdfm_jax.normalizing import networks
from tsdfm_jax.ntm import chain, denoising, flow_matching, likelihood, patches as cutting, sampler

ENDINGS = ("noisy", "noise_free", "score", "learned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """How images are drawn.

    Attributes:
      model: flow_matching (by Euler's method), start (its Gaussian sampler, untrained), ntm or ntm_identity.
      steps: T.
      guidance: weight of guidance, 0 for none.
      ending: noisy (the last step draws), noise_free (it takes the mean), score (noisy, then score denoising) or learned (noisy,
        then the learned denoiser in place of the inversion). Flow matching has none, and takes noisy.
      level: time of the trajectory's end.
      shift: μ of the levels.
      clip: quantile of score denoising; see ntm.denoising.
    """

    model: str
    steps: int
    guidance: float = 0.0
    ending: str = "noisy"
    level: float = 0.02
    shift: float = 0.0
    clip: float = 1.0

    def __post_init__(self):
        if self.ending not in ENDINGS:
            raise ValueError(f"the ending {self.ending!r} is not one of {', '.join(ENDINGS)}")
        if self.model != "flow_matching" and self.steps > 1 and self.level >= (first := chain.levels(self.steps, self.shift)[0]):
            raise ValueError(f"level {self.level} is not below {first:.3f}, the first of {self.steps} steps: take fewer steps")


class Drawn(NamedTuple):
    """Images and the trajectories behind them.

    Attributes:
      x_BHWC: the images or latents.
      xs_BTHWC: x at each level, level 0 nearest to data; None unless asked for.
      us_BTHWC: u at each level, likewise.
    """

    x_BHWC: jax.Array
    xs_BTHWC: jax.Array | None = None
    us_BTHWC: jax.Array | None = None


def keys(seed, index_B):
    """One key for each image."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(index_B)


def levels(request):
    """The T + 1 times of a trajectory, float32."""
    return jnp.asarray([request.level, *chain.levels(request.steps, request.shift)], jnp.float32)


def drawer(config, shape, request, with_states=False) -> Callable[..., Drawn]:
    """The function `draw(seed, params, index_B, y) -> Drawn`; `y` are labels or vectors, or None.

    `params` are the model's weights, for the learned ending {"model": …, "denoiser": …}.
    """

    def draw(seed, params, index_B, y=None):
        key_B, rows = keys(seed, index_B), index_B.shape[0]
        kept = lambda keep: None if y is None else networks.Condition(y, jnp.full(rows, keep))
        images = lambda x: likelihood.merge(x) if x.ndim == 4 else x
        join = lambda x: cutting.join(images(x), shape.image, shape.patch).reshape(*x.shape[:-2], *shape.image)
        if request.model == "flow_matching":
            us = _by_velocity(config, shape, request, params, key_B, kept)
            return Drawn(join(us[:, 0]), *((join(us), join(us)) if with_states else ()))
        t_T, given = levels(request), params["model"] if request.ending == "learned" else params
        us = sampler.sample(key_B, _predict(config, shape, request, given, kept), shape.row, t_T, request.ending == "noise_free")
        if request.ending == "learned":
            return Drawn(join(denoised(config, shape, params["denoiser"], us[:, 0], request, y)))
        xs = us if request.model == "start" else _inverted(config, shape, request, given, us, with_states)
        x = xs[:, 0]
        if request.ending == "score":
            x = scored(config, shape, given, xs, jnp.broadcast_to(t_T, (rows, t_T.shape[0])), kept(True), request.clip)
        return Drawn(join(x), *((join(xs), join(us)) if with_states else ()))

    return draw


def _by_velocity(config, shape, request, params, key_B, kept):
    apply, w = networks.velocity(config, shape), request.guidance
    x_BNd = jax.vmap(lambda key: jax.random.normal(key, shape.row))(key_B)

    def velocity(x_BNd, t_B):
        given = apply(params, x_BNd, t_B, kept(True))
        return flow_matching.guided(given, apply(params, x_BNd, t_B, kept(False)), w) if w else given

    return flow_matching.euler(velocity, x_BNd, request.steps)


def _predict(config, shape, request, params, kept):
    """The predictor, guided: (u_BNd, t_B, s_B) -> (mean, log σ)."""
    trajectory, start = networks.trajectory_model(config, shape), networks.untrained(config, shape)

    def one(u_BNd, t_B, s_B, condition):
        if request.model == "start":
            return start(params, u_BNd, t_B, s_B, condition)
        return trajectory.predict(params, u_BNd, t_B, s_B, jnp.full(t_B.shape, 1.0 / request.steps), condition)

    def predict(u_BNd, t_B, s_B):
        given = one(u_BNd, t_B, s_B, kept(True))
        return sampler.guided(given, one(u_BNd, t_B, s_B, kept(False)), request.guidance) if request.guidance else given

    return predict


def _inverted(config, shape, request, params, us_BTNd, with_states):
    """x at level 0, or at each level where score denoising or the caller reads them: [B, 1 or T + 1, N, d]."""
    trajectory, whole = networks.trajectory_model(config, shape), with_states or request.ending == "score"
    count = us_BTNd.shape[1] - 1 if whole else 1
    rows, t_T = us_BTNd.shape[0], levels(request)[:count]
    merged, t = likelihood.merge(us_BTNd[:, :count]), jnp.tile(t_T, rows)
    xs_BTNd = trajectory.invert(params, merged, t, jnp.full(t.shape, 1.0 / request.steps)).reshape(rows, count, *shape.row)
    return jnp.concatenate([xs_BTNd, us_BTNd[:, count:]], axis=1) if whole else xs_BTNd  # at time 1 x is u


def scored(config, shape, params, xs_BTNd, t_BT, condition, clip):
    """Score denoising of trajectories by a model of a config: x_0 as it sees it, [B, N, d]."""
    trajectory = networks.trajectory_model(config, shape)
    log_density = lambda xs: -likelihood.trajectory_nll(trajectory, params, xs, t_BT, condition).sum(axis=1)
    return denoising.denoised(log_density, xs_BTNd, t_BT, clip)


def denoised(config, shape, params, u_BNd, request, y):
    """What the learned denoiser makes of u at level 0: [B, N, d]."""
    condition = None if y is None else networks.Condition(y, jnp.ones(u_BNd.shape[0], bool))
    time_BM = networks.denoiser_times(jnp.full(u_BNd.shape[0], request.level), jnp.full(u_BNd.shape[0], 1.0 / request.steps))
    return u_BNd + patches.apply(networks.denoiser(config, shape), params, u_BNd, time_BM, *(condition or (None, None)))

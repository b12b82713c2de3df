"""The networks of a config, as the functions that `ntm` asks for. Time runs from 0 = data to 1 = noise."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.config import ntm_settings
from tsdfm_jax.config.settings import fill
from tsdfm_jax.models import patches
from tsdfm_jax.ntm import likelihood, start, transporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What the data says of the networks: (H, W, C) of an image or latent, and the condition.

    Attributes:
      image: (H, W, C).
      patch: height and width of a patch.
      classes: number of classes, 0 for none.
      vector: width of a conditioning vector, 0 for none.
    """

    image: tuple[int, int, int]
    patch: int
    classes: int = 0
    vector: int = 0

    def __post_init__(self):
        height, width, _ = self.image
        if height % self.patch or width % self.patch:
            raise ValueError(f"images.patch {self.patch} does not divide images of {height} × {width}: take one that does")

    @property
    def grid(self):
        """Rows and columns of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def row(self):
        """(N, d)."""
        rows, columns = self.grid
        return rows * columns, self.patch**2 * self.image[2]


class Condition(NamedTuple):
    """What a network is told of each row: `y`, int32 [B] or float32 [B, V], and for which rows it counts, `keep_B`."""

    y: jax.Array
    keep_B: jax.Array


def _config(config, shape, **more):
    rows, columns = shape.grid
    more = dict(rows=rows, columns=columns, features=shape.row[1]) | more
    return fill(patches.PatchConfig, config.model, **more)


def flow_matching(config, shape):
    """The network of flow matching: told the time and the condition."""
    return _config(config, shape, classes=shape.classes, vector=shape.vector)


def predictor(config, shape):
    """The predictor: flow matching's network, told t, s and T, with a second output that changes log σ."""
    return dataclasses.replace(flow_matching(config, shape), times=3, scale=True)


def denoiser(config, shape):
    """The learned denoiser: flow matching's network in shape, told the level of its input and T."""
    return dataclasses.replace(flow_matching(config, shape), times=2)


def denoiser_times(t_B, pace_B):
    """What the denoiser is told of times: [B, 2]."""
    return jnp.stack([t_B, pace_B], axis=1)


def flow(config, shape):
    """The network of one flow block of the transporter: causal, told t and T, and no condition."""
    mix = config.transporter.map == ntm_settings.MAPS[True]
    return _config(config, shape, blocks=config.transporter.blocks, times=2, causal=True, scale=True, mix=mix)


def flows(config, model):
    """Number of flow blocks of a model, "ntm" or "ntm_identity"."""
    return 0 if model == "ntm_identity" else config.transporter.flows


def init(key, config, shape, model):
    """Initial weights of a trajectory model, boxed: {"predictor": …, "flows": (…, …)}; its transporter is the identity."""
    predictor_key, *keys = jax.random.split(key, 1 + flows(config, model))
    made = {"predictor": patches.init(predictor_key, predictor(config, shape))}
    if keys:
        made["flows"] = {str(number): patches.init(key, flow(config, shape)) for number, key in enumerate(keys)}
    return made


def weights_of_flows(params):
    """The weights of each flow block, in order."""
    made = params.get("flows", {})
    return [made[str(number)] for number in range(len(made))]


def causal(cfg):
    """A causal network of a PatchConfig as the functions of a transporter.Network."""

    def step(params, cache, previous_Bd, place, time_BM):
        *outs, cache = patches.apply(cfg, params, previous_Bd[:, None], time_BM, cache=cache, place=place)
        return transporter.Affine(*(out[:, 0] for out in outs)), cache

    parallel = lambda params, x_BNd, time_BM: transporter.Affine(*patches.apply(cfg, params, x_BNd, time_BM))
    return transporter.Network(parallel=parallel, begin=functools.partial(patches.empty_cache, cfg), step=step)


def trajectory_model(config, shape):
    """The likelihood.Model of a config; the weights say whether there is a transporter."""
    flow_cfg, predictor_cfg = flow(config, shape), predictor(config, shape)
    network = causal(flow_cfg)

    def transport(params, x_BNd, t_B, pace_B):
        return transporter.forward(network, weights_of_flows(params), x_BNd, jnp.stack([t_B, pace_B], axis=1))

    def invert(params, u_BNd, t_B, pace_B):
        return transporter.inverse(network, weights_of_flows(params), u_BNd, jnp.stack([t_B, pace_B], axis=1))

    def predict(params, u_BNd, t_B, s_B, pace_B, condition):
        time_BM = jnp.stack([t_B, s_B, pace_B], axis=1)
        v, delta = patches.apply(predictor_cfg, params["predictor"], u_BNd, time_BM, *(condition or (None, None)))
        return start.predicted(u_BNd, t_B, s_B, v, delta)

    return likelihood.Model(transport=transport, invert=invert, predict=predict)


def velocity(config, shape):
    """(params, x_BNd, t_B, condition) -> v_BNd of flow matching's network."""
    cfg = flow_matching(config, shape)
    return lambda params, x_BNd, t_B, condition: patches.apply(cfg, params, x_BNd, t_B[:, None], *(condition or (None, None)))


def untrained(config, shape):
    """(params, u_BNd, t_B, s_B, condition) -> (mean, log σ): the predictor that flow matching's weights are, untrained."""
    apply = velocity(config, shape)
    return lambda params, u_BNd, t_B, s_B, condition: start.predicted(u_BNd, t_B, s_B, apply(params, u_BNd, t_B, condition))

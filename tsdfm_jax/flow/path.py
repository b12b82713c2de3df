"""The path from noise (t = 0) to data (t = 1): schedulers, sources, and sequences on the way.

`x_1` is data and `x_0` is source everywhere; time never runs the other way.
"""

import dataclasses

import jax
import jax.numpy as jnp

SOURCES = ("uniform", "mask")
SETTLED = -70.0  # the logit of all other tokens at an unmasked position: finite, because logits are averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """The scheduler kappa(t) = t^exponent and the distribution of the source (2407.15595).

    Attributes:
      source: `uniform` over the text's tokens, or `mask`: all mass on one extra token.
      exponent: n of the polynomial scheduler, > 0.
      text_vocab: size of the text's vocabulary, without the mask token.
    """

    source: str
    exponent: float
    text_vocab: int

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"flow.source '{self.source}' is not one of {', '.join(SOURCES)}")
        if not self.exponent > 0:
            raise ValueError(f"flow.exponent {self.exponent} must be above 0")

    @property
    def masked(self):
        return self.source == "mask"

    @property
    def vocab(self):
        """V, the mask token included where there is one."""
        return self.text_vocab + self.masked

    @property
    def mask_id(self):
        """The extra token, the last one. Only meaningful under the mask source."""
        return self.text_vocab


def kappa(path, t):
    """Share of positions that have their data token at time t."""
    return t**path.exponent


def kappa_dot(path, t):
    """d kappa / dt."""
    return path.exponent * t ** (path.exponent - 1.0)


def keep(path, t, h):
    """r = (1 - kappa(t + h)) / (1 - kappa(t)): the chance that a position without its data token at t has none at t + h."""
    remaining_t, remaining_s = 1.0 - kappa(path, t), 1.0 - kappa(path, jnp.minimum(t + h, 1.0))
    return jnp.where(remaining_t > 0, remaining_s / jnp.maximum(remaining_t, 1e-30), 0.0)


def rate(path, t):
    """kappa'(t) / (1 - kappa(t)): the rate at which the remaining positions get their data token."""
    return kappa_dot(path, t) / jnp.maximum(1.0 - kappa(path, t), 1e-30)


def sample_source(key_B, path, length):
    """x_0 for each of B keys: int32 x_BL."""
    if path.masked:
        return jnp.full((key_B.shape[0], length), path.mask_id, jnp.int32)
    return jax.vmap(lambda k: jax.random.randint(k, (length,), 0, path.text_vocab, jnp.int32))(key_B)


def uniform_BL(key_B, length):
    """Uniform numbers for each sequence from its own key, independent of the batch."""
    return jax.vmap(lambda k: jax.random.uniform(k, (length,)))(key_B)


def split(key_B, num=2):
    """Split each sequence's key: a tuple of `num` arrays of keys."""
    keys = jax.vmap(lambda k: jax.random.split(k, num))(key_B)
    return tuple(keys[:, i] for i in range(num))


def fold(key_B, number):
    """Fold each sequence's key with a step's (or candidate's) number."""
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(key_B)


def sample_xt(key_B, path, x_1_BL, t_B):
    """x_t of the path from data: each position is x_1 with chance kappa(t), else x_0, independently."""
    arrive_key_B, source_key_B = split(key_B)
    arrived_BL = uniform_BL(arrive_key_B, x_1_BL.shape[1]) < kappa(path, t_B)[:, None]
    return jnp.where(arrived_BL, x_1_BL, sample_source(source_key_B, path, x_1_BL.shape[1]))


def data_logits(path, logits_BLV):
    """Logits in float32 that never give mass to the mask token."""
    logits_BLV = logits_BLV.astype(jnp.float32)
    if not path.masked:
        return logits_BLV
    is_mask_V = jnp.arange(path.vocab) == path.mask_id
    return jnp.where(is_mask_V[None, None], -jnp.inf, logits_BLV)


def at(values_BLV, x_BL):
    """The value at each position's token: [B, L].

    A look-up on a CPU. Elsewhere a masked sum, which XLA fuses with the computation of the values: a look-up would first write
    all of [B, L, V].
    """
    return jax.lax.platform_dependent(values_BLV, x_BL, cpu=_look_up, default=_masked_sum)


def _look_up(values_BLV, x_BL):
    return jnp.take_along_axis(values_BLV, x_BL[..., None], axis=-1)[..., 0]


def _masked_sum(values_BLV, x_BL):
    is_x_BLV = jnp.arange(values_BLV.shape[-1])[None, None] == x_BL[..., None]
    return jnp.where(is_x_BLV, values_BLV, 0).sum(axis=-1)


def settled_logits(path, logits_BLV, x_BL):
    """The same logits, but (all but) a point mass where a token of x_BL is unmasked and stays.

    Under the mask source nothing trains a network's logits there, so a mixture of logits must not use them.
    """
    if not path.masked:
        return logits_BLV
    is_x_BLV = jnp.arange(path.vocab)[None, None] == x_BL[..., None]
    return jnp.where(free_BL(path, x_BL)[..., None], logits_BLV, jnp.where(is_x_BLV, 0.0, SETTLED))


def free_BL(path, x_BL):
    """Positions that may still change: under the mask source an unmasked token stays."""
    return x_BL == path.mask_id if path.masked else jnp.ones_like(x_BL, bool)


def stratified_times(key, count, end=1.0):
    """`count` times in [0, end), one in each of `count` equal strata under one common shift."""
    shift = jax.random.uniform(key, ())
    return end * jnp.mod(jnp.arange(count) / count + shift, 1.0)

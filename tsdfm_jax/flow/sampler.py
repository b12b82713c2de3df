"""The sampler: from noise to text in any number of steps, with given tokens held fixed, in one compiled program."""

import dataclasses
import numbers

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import jump, path as paths

TINY, HUGE = 1e-30, 1e30  # float32 can hold these numbers and divide by them


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The kind of jump, and how the posterior is sharpened.

    Attributes:
      jump: `bridge`, `cumulative` or `euler`.
      temperature: divides the logits, from TINY to HUGE.
      top_p: keeps the smallest set of tokens that holds this mass, from TINY to 1.
    """

    jump: str = "bridge"
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self):
        jump.check(self.jump)
        for name, most in (("temperature", HUGE), ("top_p", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not TINY <= value <= most:
                raise ValueError(f"{name} {value!r} must be a number above 0, from {TINY} to {most}")


def sharpen(logits_BLV, cfg):
    """Temperature, then the nucleus of mass top_p (its last token included)."""
    logits_BLV = logits_BLV / cfg.temperature
    if cfg.top_p == 1.0:
        return logits_BLV
    return jnp.where(nucleus(logits_BLV, cfg.top_p), logits_BLV, -jnp.inf)


def nucleus(logits_BLV, top_p):
    """The smallest set of tokens that holds the mass top_p; tokens of equal logits are all in it or all out: bool [B, L, V].

    Its lowest logit is found bit by bit, in 32 sums over V. A sort of 50,257 tokens takes longer than a network evaluation.
    """
    p_BLV, rank_BLV = jax.nn.softmax(logits_BLV, axis=-1), _rank(logits_BLV)

    def narrow(bit, low_BL):
        """Set the bit in `low` wherever the tokens of that rank and above still hold the mass."""
        higher_BL = low_BL | (jnp.uint32(1) << (31 - bit).astype(jnp.uint32))
        held_BL = jnp.where(rank_BLV >= higher_BL[..., None], p_BLV, 0.0).sum(axis=-1)
        return jnp.where(held_BL >= top_p, higher_BL, low_BL)

    low_BL = jax.lax.fori_loop(0, 32, narrow, jnp.zeros(logits_BLV.shape[:-1], jnp.uint32))
    # XLA may compute a logit twice with two roundings: the last token can then fall below its own `low`. The likeliest must not.
    likeliest_BL = jnp.argmax(logits_BLV, axis=-1)
    return (rank_BLV >= low_BL[..., None]) | (jnp.arange(logits_BLV.shape[-1])[None, None] == likeliest_BL[..., None])


def _rank(x):
    """Float32 as uint32 in the same order, with both zeros equal."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def step(key_B, path, posterior, x_BL, i, steps, given_BL, fixed_BL, cfg):
    """The jump from i/steps to (i + 1)/steps; positions of `fixed_BL` keep the tokens of `given_BL`."""
    t_B = jnp.full(x_BL.shape[:1], i / steps, jnp.float32)
    h_B = jnp.full(x_BL.shape[:1], 1.0 / steps, jnp.float32)
    logits_BLV = sharpen(paths.data_logits(path, posterior(x_BL, t_B, h_B)), cfg)
    move = jump.prepare(path, cfg.jump, logits_BLV, x_BL, t_B, h_B)
    x_BL, _ = jump.land(paths.fold(key_B, i), move)
    return jnp.where(fixed_BL, given_BL, x_BL)


def start(key_B, path, given_BL, fixed_BL):
    """x_0 with the given tokens in place, and the key of the steps that follow."""
    source_key_B, steps_key_B = paths.split(key_B)
    x_0_BL = paths.sample_source(source_key_B, path, given_BL.shape[1])
    return jnp.where(fixed_BL, given_BL, x_0_BL), steps_key_B


def advance(key_B, path, posterior, x_BL, first, last, steps, given_BL, fixed_BL, cfg):
    """The jumps `first` … `last` - 1 of `steps`. All three may be traced: one program serves every number of steps."""
    body = lambda i, x_BL: step(key_B, path, posterior, x_BL, i, steps, given_BL, fixed_BL, cfg)
    return jax.lax.fori_loop(first, last, body, x_BL)


def sample(key_B, path, posterior, steps, given_BL, fixed_BL, cfg):
    """Text x_BL in `steps` evaluations; each sequence depends on its own key only, never on the batch."""
    x_0_BL, steps_key_B = start(key_B, path, given_BL, fixed_BL)
    return advance(steps_key_B, path, posterior, x_0_BL, 0, steps, steps, given_BL, fixed_BL, cfg)


def states(key_B, path, posterior, steps, given_BL, fixed_BL, cfg):
    """Every state from x_0 to the text: x_SBL, with `steps` + 1 states; `steps` is static."""
    x_0_BL, steps_key_B = start(key_B, path, given_BL, fixed_BL)

    def body(x_BL, i):
        x_BL = step(steps_key_B, path, posterior, x_BL, i, steps, given_BL, fixed_BL, cfg)
        return x_BL, x_BL

    _, x_SBL = jax.lax.scan(body, x_0_BL, jnp.arange(steps))
    return jnp.concatenate([x_0_BL[None], x_SBL])


def sample_keys(seed, first, count):
    """One key for each of `count` samples, a function of the seed and of each sample's own number."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(first + jax.numpy.arange(count))

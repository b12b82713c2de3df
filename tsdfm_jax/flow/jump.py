"""The jump: the one transition that the sampler, the chains and the compass's negatives share.

For a step from t to t + h with the posterior p held fixed, each position leaves or stays by a coin of its own and, if
it leaves, lands on a token. The kinds differ in the coin and in where a leaving position may land (method: jump).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import draw, path as paths


def bridge(path, t_B1, h_B1, at_x_BL):
    """Leave with 1 - r, then land by p: the path's exact law given p. [D]"""
    del at_x_BL
    return 1.0 - paths.keep(path, t_B1, h_B1)


def cumulative(path, t_B1, h_B1, at_x_BL):
    """Leave with 1 - r^(1 - p(x_t)): the rate to other tokens integrated over the step (2509.20624)."""
    return 1.0 - paths.keep(path, t_B1, h_B1) ** (1.0 - at_x_BL)


def euler(path, t_B1, h_B1, at_x_BL):
    """Leave with 1 - exp(-h rate (1 - p(x_t))): the rate at the step's start held fixed (2407.15595)."""
    return 1.0 - jnp.exp(-h_B1 * paths.rate(path, t_B1) * (1.0 - at_x_BL))


JUMPS = {"bridge": bridge, "cumulative": cumulative, "euler": euler}
LANDS_ELSEWHERE = {"bridge": False, "cumulative": True, "euler": True}


class Move(NamedTuple):
    """A prepared jump: where from, each position's chance to leave, and where it would land.

    Attributes:
      x_BL: the tokens before the jump.
      leave_BL: chance to leave.
      table: landing masses, summed once for any number of draws.
    """

    x_BL: jax.Array
    leave_BL: jax.Array
    table: draw.Table


def check(name):
    """The kind of jump of that name, or one line that lists them."""
    if name not in JUMPS:
        raise ValueError(f"flow.jump '{name}' is not one of {', '.join(JUMPS)}")
    return name


def prepare(path, kind, logits_BLV, x_BL, t_B, h_B):
    """A move of every position from t_B to t_B + h_B under the posterior softmax(logits_BLV).

    The step that ends at t = 1 draws x_1 ~ p whatever the kind; under the mask source an unmasked token stays.
    """
    logits_BLV = paths.data_logits(path, logits_BLV)
    # The softmax's numerators: the table's own sums are all of its denominator, so that no pass over V is made to divide.
    peak_BL1 = logits_BLV.max(axis=-1, keepdims=True)
    mass_BLV = jnp.exp(logits_BLV - peak_BL1)
    at_x_BL = jnp.exp(paths.at(logits_BLV, x_BL) - peak_BL1[..., 0])
    last_B1, removed_BL = (t_B + h_B >= 1.0 - 1e-6)[:, None], jnp.zeros_like(at_x_BL)
    if LANDS_ELSEWHERE[kind]:
        here_BLV = jnp.arange(path.vocab)[None, None] == x_BL[..., None]
        mass_BLV = jnp.where(here_BLV & ~last_B1[..., None], 0.0, mass_BLV)
        removed_BL = jnp.where(last_B1, 0.0, at_x_BL)
    table = draw.table(mass_BLV)
    at_x_BL = at_x_BL / (table.block.sum(axis=-1) + removed_BL)
    leave_BL = jnp.broadcast_to(JUMPS[kind](path, t_B[:, None], h_B[:, None], at_x_BL), x_BL.shape)
    leave_BL = jnp.where(paths.free_BL(path, x_BL), jnp.where(last_B1, 1.0, leave_BL), 0.0)
    return Move(x_BL, leave_BL, table)


def _leaving(coin_B, move):
    return paths.uniform_BL(coin_B, move.x_BL.shape[1]) < move.leave_BL


def coins(key_B, move):
    """Who leaves in the realisation of a move by these keys: left_BL."""
    return _leaving(paths.split(key_B, 3)[0], move)


def land(key_B, move, left_BL=None):
    """One realisation of a move, each sequence by its own key: (x_BL after it, left_BL: who left, unless that is given)."""
    coin_B, block_B, token_B = paths.split(key_B, 3)
    length = move.x_BL.shape[1]
    left_BL = _leaving(coin_B, move) if left_BL is None else left_BL
    landing_BL = draw.pick(paths.uniform_BL(block_B, length), paths.uniform_BL(token_B, length), move.table)
    return jnp.where(left_BL, landing_BL, move.x_BL), left_BL

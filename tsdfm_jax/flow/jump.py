"""The jump: the transition that the sampler, the chains and the compass's negatives share.

In a step from t to t + h with a fixed posterior p, each position leaves or stays, independently, and lands on a token if
it leaves. The kinds differ in the chance to leave and in the tokens on which a position may land.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import draw, path as paths


def bridge(path, t_B1, h_B1, p_x_BL):
    """Leave with chance 1 - r, land by p: the path's exact law given p. [D]"""
    del p_x_BL
    return 1.0 - paths.keep(path, t_B1, h_B1)


def cumulative(path, t_B1, h_B1, p_x_BL):
    """Leave with chance 1 - r^(1 - p(x_t)): the rate to other tokens, integrated over the step (2509.20624)."""
    return 1.0 - paths.keep(path, t_B1, h_B1) ** (1.0 - p_x_BL)


def euler(path, t_B1, h_B1, p_x_BL):
    """Leave with chance 1 - exp(-h rate (1 - p(x_t))): the rate at the step's start, held fixed (2407.15595)."""
    return 1.0 - jnp.exp(-h_B1 * paths.rate(path, t_B1) * (1.0 - p_x_BL))


JUMPS = {"bridge": bridge, "cumulative": cumulative, "euler": euler}
LANDS_ELSEWHERE = {"bridge": False, "cumulative": True, "euler": True}


class Move(NamedTuple):
    """A prepared jump: the state before it, each position's chance to leave, and the masses of its landing tokens.

    Attributes:
      x_BL: the tokens before the jump.
      leave_BL: chance to leave.
      table: landing masses, summed once and used for any number of draws.
    """

    x_BL: jax.Array
    leave_BL: jax.Array
    table: draw.Table


def check(name):
    """Return `name`; raise ValueError, one line with all kinds of jump, if it is not one of them."""
    if name not in JUMPS:
        raise ValueError(f"flow.jump '{name}' is not one of {', '.join(JUMPS)}")
    return name


def prepare(path, kind, logits_BLV, x_BL, t_B, h_B):
    """Prepare the move of every position from t_B to t_B + h_B under the posterior softmax(logits_BLV).

    A step that ends at t = 1 draws x_1 ~ p for every kind. Under the mask source an unmasked token stays.
    """
    logits_BLV = paths.data_logits(path, logits_BLV)
    # Numerators of the softmax. The table's sums give the denominator, so that no pass over V is needed to divide.
    peak_BL1 = logits_BLV.max(axis=-1, keepdims=True)
    mass_BLV = jnp.exp(logits_BLV - peak_BL1)
    mass_x_BL = jnp.exp(paths.at(logits_BLV, x_BL) - peak_BL1[..., 0])
    last_B1, removed_BL = (t_B + h_B >= 1.0 - 1e-6)[:, None], jnp.zeros_like(mass_x_BL)
    if LANDS_ELSEWHERE[kind]:
        is_x_BLV = jnp.arange(path.vocab)[None, None] == x_BL[..., None]
        mass_BLV = jnp.where(is_x_BLV & ~last_B1[..., None], 0.0, mass_BLV)
        removed_BL = jnp.where(last_B1, 0.0, mass_x_BL)
    table = draw.table(mass_BLV)
    p_x_BL = mass_x_BL / (table.block.sum(axis=-1) + removed_BL)
    leave_BL = jnp.broadcast_to(JUMPS[kind](path, t_B[:, None], h_B[:, None], p_x_BL), x_BL.shape)
    leave_BL = jnp.where(paths.free_BL(path, x_BL), jnp.where(last_B1, 1.0, leave_BL), 0.0)
    return Move(x_BL, leave_BL, table)


def _draw_leaving(leave_key_B, move):
    return paths.uniform_BL(leave_key_B, move.x_BL.shape[1]) < move.leave_BL


def leaving(key_B, move):
    """The positions that leave in the realisation of a move with these keys: left_BL."""
    return _draw_leaving(paths.split(key_B, 3)[0], move)


def land(key_B, move, left_BL=None):
    """One realisation of a move, each sequence with its own key: (x_BL after it, left_BL: the positions that left).

    A given `left_BL` is used instead of drawing the positions that leave.
    """
    leave_key_B, block_key_B, token_key_B = paths.split(key_B, 3)
    length = move.x_BL.shape[1]
    left_BL = _draw_leaving(leave_key_B, move) if left_BL is None else left_BL
    landing_BL = draw.pick(paths.uniform_BL(block_key_B, length), paths.uniform_BL(token_key_B, length), move.table)
    return jnp.where(left_BL, landing_BL, move.x_BL), left_BL

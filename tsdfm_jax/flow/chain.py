"""Chains of jumps: the short ones behind a student's target, and whole trajectories from source to text.

`posterior(x_BL, t_B, h_B) -> logits_BLV` is any network; h_B is the step size that it is given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import jump, path as paths, shaping


class Link(NamedTuple):
    """One jump of a chain: whether it starts from the last state or from x_t; start, width and evaluation time as shares of h."""

    from_last: bool
    depart: float
    width: float
    evaluate: float


class Chain(NamedTuple):
    """A chain's jumps and the weights of its evaluations l1, l2, … in the target.

    Without weights the target is l1 at positions that left in the first jump, and l2 elsewhere.
    """

    links: tuple
    weights: tuple | None


_RK4 = (1 / 6, 2 / 6, 2 / 6, 1 / 6)
# `fsdfm` starts every jump where the last one landed (2509.20624). `classical` starts every jump from x_t, as Runge-Kutta
# does, so that every state has the noise level of the time at which it is evaluated. `sdtt` (2410.21035) is two steps of h/2
# of a teacher: the target is l1 at positions that leave in the first step, and l2 at the rest.
CHAINS = {
    "fsdfm": Chain((Link(True, 0.0, 0.5, 0.5), Link(True, 0.5, 0.5, 0.5), Link(True, 0.5, 0.5, 1.0)), _RK4),
    "classical": Chain((Link(False, 0.0, 0.5, 0.5), Link(False, 0.0, 0.5, 0.5), Link(False, 0.0, 1.0, 1.0)), _RK4),
    "heun": Chain((Link(True, 0.0, 1.0, 1.0),), (1 / 2, 1 / 2)),
    "sdtt": Chain((Link(True, 0.0, 0.5, 0.5),), None),
}


class Midpoints(NamedTuple):
    """The result of a chain. S is its number of jumps.

    Attributes:
      x_BSL: the midpoints m1, m2, …
      energy_BSK, index_BS: the candidates' energies and the index of the chosen one.
      left_BSL: the positions that left in each jump; None where there were several candidates.
    """

    x_BSL: jax.Array
    energy_BSK: jax.Array
    index_BS: jax.Array
    left_BSL: jax.Array | None


def times(name, t_B, h_B):
    """The times of a chain's evaluations l1, l2, …: t_BE."""
    fractions = (0.0,) + tuple(link.evaluate for link in CHAINS[name].links)
    return jnp.stack([jnp.minimum(t_B + f * h_B, 1.0) for f in fractions], axis=1)


def run(key_B, path, kind, name, posterior, x_BL, t_B, h_B, energy, cfg):
    """Run a chain from (x_t, t) over h, each jump shaped as `cfg` says, and return its Midpoints.

    The posterior is given the step size h/2.
    """

    def jump_once(state_BL, link):
        i, from_last, depart, width, before_B, after_B = link
        logits_BLV = posterior(state_BL, before_B, h_B / 2)
        start_BL = jnp.where(from_last, state_BL, x_BL)
        move = jump.prepare(path, kind, logits_BLV, start_BL, t_B + depart * h_B, width * h_B)
        choice = shaping.shaped_jump(paths.fold(key_B, i), move, after_B, energy, cfg)
        return choice.x_BL, Midpoints(choice.x_BL, choice.energy_BK, choice.index_B, choice.left_BL)

    return _scan(jump_once, x_BL, _links(name, t_B, h_B))


def blind_pairs(key_B, path, kind, name, posterior, x_BL, x_1_BL, t_B, h_B):
    """A blind chain, and a copy with the same leaving positions in which every landing is the data's token.

    Returns (negative_BSL, positive_BSL, left_BSL): the compass's training pairs at each depth. left_BSL marks the
    positions that have landed since x_t. Only there the two may differ.
    """

    def jump_once(carry, link):
        (state_BL, landed_BL), (i, from_last, depart, width, before_B, _) = carry, link
        logits_BLV = posterior(state_BL, before_B, h_B / 2)
        start_BL, landed_BL = jnp.where(from_last, state_BL, x_BL), landed_BL & from_last
        move = jump.prepare(path, kind, logits_BLV, start_BL, t_B + depart * h_B, width * h_B)
        state_BL, left_BL = jump.land(paths.fold(key_B, i), move)
        landed_BL = landed_BL | left_BL
        return (state_BL, landed_BL), (state_BL, jnp.where(landed_BL, x_1_BL, x_BL), landed_BL)

    return _scan(jump_once, (x_BL, jnp.zeros_like(x_BL, bool)), _links(name, t_B, h_B))


def _links(name, t_B, h_B):
    """A chain's jumps as arrays to scan: number, the Link's fields except the last, the times before and after the jump."""
    links, t_EB = CHAINS[name].links, times(name, t_B, h_B).T
    from_last, depart, width, _ = (jnp.array(field) for field in zip(*links))
    return jnp.arange(len(links)), from_last, depart, width, t_EB[:-1], t_EB[1:]


def _scan(jump_once, start, jumps):
    """Scan `jump_once(state, jump) -> (state, result)`; return the results of all jumps, S after B. The program has the network once."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), jax.lax.scan(jump_once, start, jumps)[1])


def target_logits(path, name, posterior, x_BL, midpoints_BSL, t_B, h_B, left_BSL=None):
    """The student's target at (x_t, t, h) from recorded midpoints: (l1 + 2 l2 + 2 l3 + l4) / 6, or Heun's mean.

    Under the mask source, where a midpoint has unmasked a position, its evaluation there is (all but) a point mass on the token.
    `sdtt` uses l1 where `left_BSL` says that a position left, and l2 elsewhere. It needs `left_BSL`: under the uniform source a
    position may land on the token that it left, and the states do not show that.
    """
    state_EBL = jnp.concatenate([x_BL[None], jnp.moveaxis(midpoints_BSL, 1, 0)])
    weights = CHAINS[name].weights
    if weights is None:
        weight_EBL = jnp.stack([left_BSL[:, 0], ~left_BSL[:, 0]]).astype(jnp.float32)
    else:
        weight_EBL = jnp.broadcast_to(jnp.array(weights)[:, None, None], state_EBL.shape)

    def add(sum_BLV, evaluation):
        state_BL, t_B, weight_BL = evaluation
        logits_BLV = paths.settled_logits(path, posterior(state_BL, t_B, h_B / 2), state_BL)
        weight_BL1 = weight_BL[..., None]
        return sum_BLV + jnp.where(weight_BL1 > 0, weight_BL1 * logits_BLV, 0.0), None

    # A scan, so that the program has the network once and memory holds one sum beside its logits.
    zero_BLV = jnp.zeros((*x_BL.shape, path.vocab))
    return jax.lax.scan(add, zero_BLV, (state_EBL, times(name, t_B, h_B).T, weight_EBL))[0]


class Trajectory(NamedTuple):
    """A whole trajectory: `state_BSL` holds x_0 and the S midpoints; the last one is the text."""

    state_BSL: jax.Array
    energy_BSK: jax.Array
    index_BS: jax.Array


class DetailedTrajectory(NamedTuple):
    """A whole trajectory with the K candidates of every midpoint and their scores at each position."""

    state_BSL: jax.Array
    energy_BSK: jax.Array
    index_BS: jax.Array
    cand_BSKL: jax.Array
    score_BSKL: jax.Array


def trajectory(key_B, path, kind, posterior, x_0_BL, steps, energy, cfg):
    """A trajectory from source to text in `steps` equal jumps, each shaped as `cfg` says."""
    fields = lambda choice: (choice.x_BL, choice.energy_BK, choice.index_B)
    return Trajectory(*_walk(key_B, path, kind, posterior, x_0_BL, steps, energy, cfg, fields))


def detailed_trajectory(key_B, path, kind, posterior, x_0_BL, steps, energy, cfg):
    """The same trajectory, with all candidates and their scores."""
    fields = lambda choice: (choice.x_BL, choice.energy_BK, choice.index_B, choice.cand_BKL, choice.score_BKL)
    return DetailedTrajectory(*_walk(key_B, path, kind, posterior, x_0_BL, steps, energy, cfg, fields))


def _walk(key_B, path, kind, posterior, x_0_BL, steps, energy, cfg, fields):
    """`fields(choice)` of every jump, S after B; its first array must be the state, and x_0 is put before these states."""
    width_B = jnp.full(x_0_BL.shape[:1], 1.0 / steps)

    def jump_once(x_BL, i):
        t_B = jnp.full_like(width_B, i / steps)
        move = jump.prepare(path, kind, posterior(x_BL, t_B, width_B), x_BL, t_B, width_B)
        arrive_B = jnp.full_like(width_B, (i + 1) / steps)
        choice = shaping.shaped_jump(paths.fold(key_B, i), move, arrive_B, energy, cfg)
        return choice.x_BL, fields(choice)

    state_BSL, *others = _scan(jump_once, x_0_BL, jnp.arange(steps))
    return [jnp.concatenate([x_0_BL[:, None], state_BSL], axis=1), *others]

"""Shaping: draw K candidates of one move, score them with the compass, keep the most coherent.

`energy(x_BL, t_B) -> (energy_B, score_BL)` is any compass: the energy of a whole sequence and a score of each position,
both low for coherent text.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsdfm_jax.flow import draw, jump, path as paths

COINS = ("own", "shared")
TIE = 1e-5  # share of the largest energy: about ten times the rounding of a float32 network


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """How a candidate is chosen.

    Attributes:
      candidates: K; 1 is the blind jump.
      policy: `sequence` (keep one whole candidate), `token` (choose each span by itself) or `sequence_to_token` (keep one
        candidate, then replace spans where another candidate's score is lower by more than `margin`).
      selection: `argmin`, `boltzmann`, and the controls `random` and `worst`.
      temperature: of `boltzmann`.
      tau: shape only jumps that arrive at this time or later.
      span: number of neighbouring tokens that `token` and `sequence_to_token` choose together, by their mean score.
      margin: how much lower the score of another candidate's span must be to replace the chosen one (`sequence_to_token`).
      coins: which positions leave: `own` (drawn for each candidate) or `shared` (those of the first candidate, for all;
        candidates differ in where they land. Under the mask source all have equally many masks, so energies compare).
      chunk: candidates scored at once, 0 for all K; peak memory grows with it.
    """

    candidates: int = 8
    policy: str = "sequence"
    selection: str = "argmin"
    temperature: float = 1.0
    tau: float = 0.0
    span: int = 1
    margin: float = 0.0
    coins: str = "own"
    chunk: int = 0

    def __post_init__(self):
        if self.candidates < 1:
            raise ValueError(f"shaping.candidates {self.candidates} must be at least 1 (1 is the blind jump)")
        if self.span < 1:
            raise ValueError(f"shaping.span {self.span} must be at least 1 (1 chooses every token by itself)")
        if self.policy not in POLICIES:
            raise ValueError(f"shaping.policy '{self.policy}' is not one of {', '.join(POLICIES)}")
        if self.selection not in SELECTIONS:
            raise ValueError(f"shaping.selection '{self.selection}' is not one of {', '.join(SELECTIONS)}")
        if self.coins not in COINS:
            raise ValueError(f"shaping.coins '{self.coins}' is not one of {', '.join(COINS)}")
        if self.selection == "boltzmann" and not self.temperature > 0:
            raise ValueError(f"shaping.temperature {self.temperature} must be above 0")


class Choice(NamedTuple):
    """The result of a shaped jump: x_BL kept, the K energies, the index of the chosen candidate, all candidates, their scores.

    `left_BL` marks the positions that left if there was one candidate; else it is None.
    """

    x_BL: jax.Array
    energy_BK: jax.Array
    index_B: jax.Array
    cand_BKL: jax.Array
    score_BKL: jax.Array
    left_BL: jax.Array | None = None


def _argmin(key_B, energy_BK, cfg):
    """The index of the lowest energy, the first one of a tie.

    Ties are common: a single token among masks costs the same at every position. Rounding of equal energies differs from
    machine to machine, so energies that are closer than TIE count as equal.
    """
    del key_B, cfg
    size_BK = jnp.where(jnp.isfinite(energy_BK), jnp.abs(energy_BK), 0.0)
    highest_B1 = energy_BK.min(axis=1, keepdims=True) + TIE * size_BK.max(axis=1, keepdims=True)
    return jnp.argmax(energy_BK <= highest_B1, axis=1)


def _worst(key_B, energy_BK, cfg):
    return _argmin(key_B, -energy_BK, cfg)


def _random(key_B, energy_BK, cfg):
    return _boltzmann(key_B, jnp.zeros_like(energy_BK), cfg)


def _boltzmann(key_B, energy_BK, cfg):
    """Draw in proportion to exp(-E / temperature): importance resampling at temperature 1."""
    weight_BK = jax.nn.softmax(-energy_BK / cfg.temperature, axis=1)
    return jax.vmap(draw.categorical)(key_B, weight_BK)


CONTROLS = ("random", "worst")
SELECTIONS = {"argmin": _argmin, "boltzmann": _boltzmann, "random": _random, "worst": _worst}


def _take(cand_BKL, index_B):
    return jnp.take_along_axis(cand_BKL, index_B[:, None, None], axis=1)[:, 0]


def _sequence(key_B, cand_BKL, energy_BK, score_BKL, rescore, cfg):
    """Keep one whole candidate."""
    del score_BKL, rescore
    index_B = SELECTIONS[cfg.selection](key_B, energy_BK, cfg)
    return _take(cand_BKL, index_B), index_B


def _spans(score_BKL, span):
    """The mean score of every span of `span` neighbours; the last span may be shorter: [B, K, N]."""
    length = score_BKL.shape[-1]
    padded = jnp.pad(score_BKL, ((0, 0), (0, 0), (0, -length % span)))
    sizes_N = jnp.minimum(span, length - jnp.arange(0, length, span))
    return padded.reshape(*score_BKL.shape[:2], -1, span).sum(axis=-1) / sizes_N[None, None]


def _span_to_tokens(value_BN, span, length):
    """The value of each token's span at the token: [B, L]."""
    return jnp.repeat(value_BN, span, axis=-1)[..., :length]


def _take_at_positions(cand_BKL, index_BL):
    return jnp.take_along_axis(cand_BKL, index_BL[:, None], axis=1)[:, 0]


def _token(key_B, cand_BKL, energy_BK, score_BKL, rescore, cfg):
    """Choose each span by itself; the index is that of the candidate that gave the most positions."""
    del rescore
    (b, k, length), score_BKN = cand_BKL.shape, _spans(score_BKL, cfg.span)
    spans = score_BKN.shape[-1]
    key_X = jax.vmap(lambda key: jax.random.split(key, spans))(key_B).reshape(-1)
    index_X = SELECTIONS[cfg.selection](key_X, score_BKN.transpose(0, 2, 1).reshape(-1, k), cfg)
    index_BL = _span_to_tokens(index_X.reshape(b, spans), cfg.span, length)
    votes_BK = (index_BL[:, None, :] == jnp.arange(k)[None, :, None]).sum(axis=-1)
    return _take_at_positions(cand_BKL, index_BL), jnp.argmax(votes_BK, axis=1)


def _sequence_to_token(key_B, cand_BKL, energy_BK, score_BKL, rescore, cfg):
    """Choose one candidate, replace its worse spans, and keep the result only where the sequence's energy falls. [D]

    The candidate of a control (`random`, `worst`) stays as it is.
    """
    x_BL, index_B = _sequence(key_B, cand_BKL, energy_BK, score_BKL, rescore, cfg)
    if cfg.selection in CONTROLS:
        return x_BL, index_B
    length, score_BKN = x_BL.shape[1], _spans(score_BKL, cfg.span)
    best_x_BL = _take_at_positions(cand_BKL, _span_to_tokens(jnp.argmin(score_BKN, axis=1), cfg.span, length))
    better_BN = score_BKN.min(axis=1) < _take(score_BKN, index_B) - cfg.margin
    mended_BL = jnp.where(_span_to_tokens(better_BN, cfg.span, length), best_x_BL, x_BL)
    chosen_energy_B = jnp.take_along_axis(energy_BK, index_B[:, None], axis=1)[:, 0]
    return jnp.where((rescore(mended_BL) < chosen_energy_B)[:, None], mended_BL, x_BL), index_B


POLICIES = {"sequence": _sequence, "token": _token, "sequence_to_token": _sequence_to_token}


def candidates(key_B, move, t_B, energy, cfg):
    """K realisations of one move and their scores, `cfg.chunk` at a time: (cand_BKL, energy_BK, score_BKL).

    Candidate k comes from each sequence's key folded with k, so the first is the blind jump for every K. Where the choice is
    random, or all jumps arrive before tau, the compass is not called, and all energies are 0.
    """

    left_BL = jump.leaving(paths.fold(key_B, 0), move) if cfg.coins == "shared" else None
    score = _scorer(energy, t_B, cfg)

    def candidate(k):
        cand_BL, _ = jump.land(paths.fold(key_B, k), move, left_BL)
        return cand_BL, *score(cand_BL)

    chunk = min(cfg.chunk or cfg.candidates, cfg.candidates)
    results = jax.lax.map(candidate, jnp.arange(cfg.candidates), batch_size=chunk)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), results)


def _scorer(energy, t_B, cfg):
    """The compass as `x_BL -> (energy_B, score_BL)`, called only where its result is used."""
    if cfg.selection == "random":
        return _not_scored
    if cfg.tau <= 0:
        return lambda x_BL: energy(x_BL, t_B)
    return lambda x_BL: jax.lax.cond(is_shaped(t_B, cfg).any(), lambda x_BL: energy(x_BL, t_B), _not_scored, x_BL)


def is_shaped(arrive_B, cfg):
    """Whether a jump that arrives at this time (an array or one number) is shaped: at cfg.tau or later, up to rounding."""
    return arrive_B >= cfg.tau - 1e-6


def _not_scored(x_BL):
    """Zeros in place of energy and scores that are not used."""
    return jnp.zeros(x_BL.shape[:1]), jnp.zeros(x_BL.shape)


def shaped_jump(key_B, move, arrive_B, energy, cfg):
    """Choose among the candidates of the move that arrives at time arrive_B: a `Choice`.

    Where arrive_B < tau the first candidate is used whatever its energy. For K = 1 it is always used, the compass is not
    called, and the recorded energy is 0.
    """
    candidates_key_B, choice_key_B = paths.split(key_B)
    if cfg.candidates == 1:
        x_BL, left_BL = jump.land(paths.fold(candidates_key_B, 0), move)
        zero_B, zero_BL = _not_scored(x_BL)
        return Choice(x_BL, zero_B[:, None], zero_B.astype(jnp.int32), x_BL[:, None], zero_BL[:, None], left_BL)
    cand_BKL, energy_BK, score_BKL = candidates(candidates_key_B, move, arrive_B, energy, cfg)
    rescore = lambda x_BL: _scorer(energy, arrive_B, cfg)(x_BL)[0]
    x_BL, index_B = POLICIES[cfg.policy](choice_key_B, cand_BKL, energy_BK, score_BKL, rescore, cfg)
    shaped_B = is_shaped(arrive_B, cfg)
    x_BL = jnp.where(shaped_B[:, None], x_BL, cand_BKL[:, 0])
    return Choice(x_BL, energy_BK, jnp.where(shaped_B, index_B, 0).astype(jnp.int32), cand_BKL, score_BKL)

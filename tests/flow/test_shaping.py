"""Shaping: candidates, policies and controls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tsdfm_jax.flow import jump, path as paths, shaping

PATH = paths.Path(source="uniform", exponent=1.0, text_vocab=6)
B, L = 5, 7


def move(t=0.25, h=0.5, b=B):
    logits = jax.random.normal(jax.random.key(1), (b, L, PATH.vocab))
    x = paths.sample_source(jax.random.split(jax.random.key(2), b), PATH, L)
    return jump.prepare(PATH, "bridge", logits, x, jnp.full((b,), t), jnp.full((b,), h))


def energy(x_BL, t_B):
    score = jnp.sin(3.0 * x_BL + jnp.arange(L)[None]) + t_B[:, None]
    return score.mean(axis=-1), score


def forbidden(x_BL, t_B):
    raise AssertionError("a blind jump asked for an energy")


def keys(b=B):
    return jax.random.split(jax.random.key(0), b)


def config(**kwargs):
    return shaping.ShapingConfig(**kwargs)


@pytest.mark.parametrize("policy", shaping.POLICIES)
@pytest.mark.parametrize("selection", shaping.SELECTIONS)
def test_one_candidate_is_blind(policy, selection):
    """K = 1 is the blind jump to the bit under every policy, and computes no energy."""
    blind_key, _ = paths.split(keys())
    blind, _ = jump.land(paths.fold(blind_key, 0), move())
    choice = shaping.shaped_jump(
        keys(), move(), jnp.full((B,), 0.75), forbidden, config(candidates=1, policy=policy, selection=selection)
    )
    assert (choice.x_BL == blind).all()


def test_the_first_candidate_is_the_blind_jump():
    """The first of the K candidates is the blind jump, for every K and every chunk."""
    blind = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.75), energy, config(candidates=1)).x_BL
    for k, chunk in ((2, 0), (5, 2), (8, 3)):
        choice = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.75), energy, config(candidates=k, chunk=chunk))
        assert (choice.cand_BKL[:, 0] == blind).all() and choice.cand_BKL.shape == (B, k, L)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_change_nothing(chunk):
    """Candidates and energies do not depend on how many are scored at once."""
    whole = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.75), energy, config(candidates=8))
    parts = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.75), energy, config(candidates=8, chunk=chunk))
    assert (whole.cand_BKL == parts.cand_BKL).all() and (whole.x_BL == parts.x_BL).all()
    np.testing.assert_allclose(whole.energy_BK, parts.energy_BK, rtol=1e-6)


def test_shared_coins_move_the_same_places():
    """With coins = shared, all candidates move at the blind jump's positions and differ only in their tokens there."""
    drawn, _ = paths.split(keys())  # the second keys choose
    blind, left = jump.land(paths.fold(drawn, 0), move())
    own, shared = (shaping.shaped_jump(keys(), move(), jnp.ones((B,)), energy, config(coins=c)).cand_BKL for c in shaping.COINS)
    assert (own[:, 0] == blind).all() and (shared[:, 0] == blind).all()
    assert (jnp.where(left[:, None], 0, shared) == jnp.where(left, 0, move().x_BL)[:, None]).all()
    assert (jnp.where(left[:, None], 0, own) != jnp.where(left, 0, move().x_BL)[:, None]).any()
    assert (jnp.where(left[:, None], shared, 0) != jnp.where(left, blind, 0)[:, None]).any()


@pytest.mark.parametrize("policy", shaping.POLICIES)
def test_a_random_choice_asks_for_no_energy(policy):
    """The random control computes no energy: its energies are 0, and every candidate is chosen sometimes."""
    key_B = keys(400)
    choice = shaping.shaped_jump(
        key_B, move(b=400), jnp.full((400,), 0.75), forbidden, config(candidates=3, selection="random", policy=policy)
    )
    assert not choice.energy_BK.any() and set(choice.index_B.tolist()) == {0, 1, 2}


def test_vmapped_scores_are_looped_scores():
    """Scoring all candidates in one vmap equals scoring them one by one."""
    t_B = jnp.linspace(0.1, 0.9, B)
    cand_BKL, energy_BK, score_BKL = shaping.candidates(keys(), move(), t_B, energy, config(candidates=4))
    for k in range(4):
        one_B, one_BL = energy(cand_BKL[:, k], t_B)
        np.testing.assert_allclose(energy_BK[:, k], one_B, rtol=1e-6)
        np.testing.assert_allclose(score_BKL[:, k], one_BL, rtol=1e-6)


CAND = jnp.array([[[0, 0, 0], [1, 1, 1], [2, 2, 2]]])
SCORE = jnp.array([[[0.0, 5.0, 4.0], [1.0, 1.0, 1.0], [9.0, 0.0, 9.0]]])


def chosen(cfg, energy_BK, rescore=lambda x: jnp.zeros(1), seed=0):
    key_B = jax.random.key(seed)[None]
    x, index = shaping.POLICIES[cfg.policy](key_B, CAND, jnp.array([energy_BK]), SCORE, rescore, cfg)
    return x[0].tolist(), int(index[0])


def test_sequence_takes_one_whole():
    """The sequence policy keeps one whole candidate: argmin the lowest energy, worst the highest."""
    assert chosen(config(candidates=3), [3.0, 1.0, 6.0]) == ([1, 1, 1], 1)
    assert chosen(config(candidates=3, selection="worst"), [3.0, 1.0, 6.0]) == ([2, 2, 2], 2)


def test_token_takes_each_position():
    """Each position gets the token of the candidate with the lowest score there; with worst, the highest."""
    assert chosen(config(candidates=3, policy="token"), [3.0, 1.0, 6.0])[0] == [0, 2, 1]
    assert chosen(config(candidates=3, policy="token", selection="worst"), [3.0, 1.0, 6.0])[0] == [2, 0, 2]


def test_sequence_to_token_mends_the_winner():
    """A token of the winner is replaced by one better by the margin, and only if the sequence's energy falls."""
    cfg = config(candidates=3, policy="sequence_to_token", margin=0.5)
    falls, rises = (lambda x: jnp.array([0.5])), (lambda x: jnp.array([1.5]))
    assert chosen(cfg, [3.0, 1.0, 6.0], falls) == ([0, 2, 1], 1)
    assert chosen(cfg, [3.0, 1.0, 6.0], rises) == ([1, 1, 1], 1)
    assert chosen(dataclasses.replace(cfg, margin=1.0), [3.0, 1.0, 6.0], falls) == ([1, 1, 1], 1)
    assert chosen(dataclasses.replace(cfg, selection="worst"), [3.0, 1.0, 6.0], falls) == ([2, 2, 2], 2)


def test_spans_are_chosen_whole():
    """A span is chosen whole by its mean score or one random choice; the last span may be shorter."""
    score = np.array(SCORE)[0]
    assert chosen(config(candidates=3, policy="token", span=2), [3.0, 1.0, 6.0])[0] == [1, 1, 1]
    cfg = config(candidates=3, policy="sequence_to_token", span=2, margin=0.5)
    mended = [int(score[:, :2].mean(axis=1).argmin())] * 2 + [int(score[:, 2].argmin())]
    assert chosen(cfg, [3.0, 4.0, 1.0], lambda x: jnp.array([0.5])) == (mended, 2) and mended == [1, 1, 1]
    found = [chosen(config(candidates=3, policy="token", span=2, selection="random"), [0.0] * 3, seed=s)[0] for s in range(12)]
    assert all(a == b for a, b, _ in found) and {a for a, _, _ in found} == {0, 1, 2} and any(b != c for _, b, c in found)


@pytest.mark.parametrize(
    "selection, law", [("random", [1 / 3] * 3), ("boltzmann", np.exp([-0.0, -1.0, -2.0]) / np.exp([-0.0, -1.0, -2.0]).sum())]
)
def test_laws_of_the_random_selections(selection, law):
    """random chooses uniformly among K; boltzmann chooses with probability proportional to exp(-E / T)."""
    key_B = jax.random.split(jax.random.key(5), 20_000)
    energy_BK = jnp.broadcast_to(jnp.array([0.0, 2.0, 4.0]), (20_000, 3))
    index = shaping.SELECTIONS[selection](key_B, energy_BK, config(candidates=3, selection=selection, temperature=2.0))
    chance.assert_law(index, law)


def test_tau_leaves_early_jumps_blind():
    """A jump that arrives before tau keeps the first candidate unscored; from tau on it keeps the best one."""
    cfg = config(candidates=8, tau=0.5)
    early = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.49), energy, cfg)
    late = shaping.shaped_jump(keys(), move(), jnp.full((B,), 0.5), energy, cfg)
    assert not early.energy_BK.any() and late.energy_BK.any()
    assert (early.x_BL == early.cand_BKL[:, 0]).all() and (early.index_B == 0).all()
    assert (late.index_B == jnp.argmin(late.energy_BK, axis=1)).all() and (late.index_B > 0).any()


@pytest.mark.parametrize("policy", shaping.POLICIES)
def test_no_compass_is_asked_before_tau(policy):
    """Before tau no energy is computed, neither the candidates' nor the repaired winner's."""
    asked = []

    def counted(x_BL, t_B):
        jax.debug.callback(lambda: asked.append(1))
        return energy(x_BL, t_B)

    for arrive, wanted in ((0.49, {0}), (0.5, {2, 3})):  # two chunks, and once more for a repaired winner
        asked.clear()
        jax.block_until_ready(
            shaping.shaped_jump(
                keys(), move(), jnp.full((B,), arrive), counted, config(candidates=4, chunk=2, tau=0.5, policy=policy)
            )
        )
        jax.effects_barrier()
        assert len(asked) in wanted


def test_memory_grows_with_candidates_only_through_their_tokens():
    """At a fixed chunk, twice the candidates cost at most a few arrays of [B, K, L] more, never one with both K and V."""
    path, b, length = paths.Path(source="uniform", exponent=1.0, text_vocab=2000), 2, 32

    def program(k):
        def f(key_B, logits, table_VV):
            move = jump.prepare(path, "bridge", logits, jnp.zeros((b, length), int), jnp.full((b,), 0.1), jnp.full((b,), 0.5))

            def posterior_energy(x_BL, t_B):  # an energy that computes its own posterior over V
                score = jax.nn.logsumexp(table_VV[x_BL % 50], axis=-1)
                return score.mean(axis=-1), score

            choice = shaping.shaped_jump(
                key_B, move, jnp.full((b,), 0.6), posterior_energy, shaping.ShapingConfig(candidates=k, chunk=2)
            )
            return choice.x_BL, choice.energy_BK

        shapes = (jax.random.split(jax.random.key(0), b), jnp.zeros((b, length, 2000)), jnp.zeros((50, 2000)))
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    growth = program(64) - program(8)
    assert growth <= 8 * (64 - 8) * b * length * 4 < (64 - 8) * b * length * 2000 * 4 / 50

"""Self-distillation through time: its target, and which positions left, against a direct computation on small systems."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tests.laws import enumerable, systems
from tsdfm_jax.flow import chain, path as paths, shaping

T, H = 0.25, 0.75  # two steps of 3/8, the second of which ends at t = 1


def logits_of(system, t):
    """log p(x_1 | x_t) of every state at time t, floored: [N, L, V]."""
    return np.log(np.maximum(system.posterior_NLV(system.kappa(t)), 1e-30))


def first_jump(system):
    """P(m, left | x) of the teacher's first bridge step: [N, N, 2^L]; and which positions left in each case: [2^L, L]."""
    states, r = system.states, system.keep(T, T + H / 2)
    p = np.concatenate([np.exp(logits_of(system, T)), np.zeros((*states.shape, int(system.masked)))], axis=2)
    lefts = np.array(list(itertools.product([0, 1], repeat=system.length)))
    free = (states == system.text_vocab) if system.masked else np.ones(states.shape, bool)
    out = np.ones((len(states), len(states), len(lefts)))
    for i in range(system.length):
        lands = (1 - r) * p[:, i][:, states[:, i]] * free[:, i, None]
        stays = np.where(free[:, i, None], r, 1.0) * (states[None, :, i] == states[:, None, i])
        out *= np.where(lefts[:, i] == 1, lands[..., None], stays[..., None])
    return out, lefts


def target(system, x_BL, m_BL, left_BL):
    """The package's target as probabilities [B, L, V]."""
    path, n = systems.path_of(system), len(x_BL)
    arrays = (jnp.asarray(x_BL), jnp.asarray(m_BL)[:, None], systems.full(n, T), systems.full(n, H), jnp.asarray(left_BL)[:, None])
    logits = chain.target_logits(path, "sdtt", systems.posterior_of(system), *arrays)
    return np.asarray(jax.nn.softmax(paths.data_logits(path, logits)))[..., : system.text_vocab]


def test_under_masks_it_is_the_marginal_of_two_teacher_steps():
    """At every masked position the target's mean over the first step is the position's law after two teacher steps."""
    system = enumerable.draw("mask", 1.0, 2, 3, seed=5, concentration=0.3)  # with two positions a single posterior would be exact
    joint, lefts = first_jump(system)
    np.testing.assert_allclose(joint.sum(axis=2), system.jump_NN("bridge", T, H / 2), atol=1e-12)
    two = system.token_marginals(system.jump_NN("bridge", T, H / 2) @ system.jump_NN("bridge", T + H / 2, H / 2))
    one = system.posterior_NLV(system.kappa(T))[-1]
    assert np.abs(one - two[-1][:, : system.text_vocab]).max() > 1e-3
    for x in np.flatnonzero((system.states == system.text_vocab).any(axis=1)):
        m, coins = np.nonzero(joint[x])
        found = target(system, system.states[np.full(len(m), x)], system.states[m], lefts[coins] == 1)
        mean = np.einsum("n,nlv->lv", joint[x][m, coins], found)
        masked = system.states[x] == system.text_vocab
        np.testing.assert_allclose(mean[masked], two[x][masked][:, : system.text_vocab], atol=3e-6)


@pytest.mark.parametrize("source", paths.SOURCES)
def test_who_left_is_what_was_recorded(source):
    """Landings and recorded leaves follow their joint law, also where a position lands on the token that it left."""
    system = enumerable.draw(source, 1.0, 2, 2, seed=6)
    joint, lefts = first_jump(system)
    path, x = systems.path_of(system), 0 if source == "uniform" else len(system.states) - 1
    n, nothing = 20_000, lambda x_BL, t_B: (jnp.zeros(len(x_BL)), jnp.zeros(x_BL.shape))
    x_BL, times = jnp.asarray(system.states)[np.full(n, x)], (systems.full(n, T), systems.full(n, H))
    blind = shaping.ShapingConfig(candidates=1)
    args = (path, "bridge", "sdtt", systems.posterior_of(system), x_BL, *times, nothing, blind)
    found = systems.compiled(lambda key_B: chain.run(key_B, *args))(systems.keys(9, n))
    coins = np.asarray(found.left_BSL)[:, 0] @ (2 ** np.arange(system.length)[::-1])
    chance.assert_law(system.index(np.asarray(found.x_BSL)[:, 0]) * len(lefts) + coins, joint[x].ravel())
    same = np.asarray(found.left_BSL[:, 0] & (found.x_BSL[:, 0] == x_BL))
    assert same.any() == (source == "uniform")

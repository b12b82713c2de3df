"""The chains and the student's target, against the exact transition that the target approximates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from tests import chance
from tests.laws import enumerable, enumerable_chain, systems
from tsdfm_jax.flow import chain, path as paths, shaping

MEANS = [name for name, made in chain.CHAINS.items() if made.weights]  # chains with a target that averages all evaluations
SIZES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)


def untrained_where_unmasked(system):
    """The true posterior as a network learns it: under the mask source, arbitrary logits at unmasked positions."""
    posterior, path = systems.posterior_of(system), systems.path_of(system)

    def network(x_BL, t_B, h_B):
        logits_BLV = posterior(x_BL, t_B, h_B)
        return jnp.where(paths.free_BL(path, x_BL)[..., None], logits_BLV, 3.0 * jnp.cos(jnp.arange(path.vocab))[None, None])

    return network


@given(
    system=systems.some(shapes=((5, 1), (3, 2))),
    name=strategies.sampled_from(sorted(MEANS)),
    t=strategies.floats(0.02, 0.6),
    h=strategies.floats(0.02, 0.38),
    seed=strategies.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_targets(system, name, t, h, seed):
    """target_logits equals an independent (l1 + 2 l2 + 2 l3 + l4) / 6, or Heun's mean, at any midpoints."""
    made = enumerable_chain.Chain(system, name, t, h)
    joint, rng, n = made.joint(), np.random.default_rng(seed), len(system.states)
    start = rng.choice(np.flatnonzero(system.marginal_N(system.kappa(t)) > 0), size=32)
    links = joint.reshape(n, -1)
    flat = np.array([rng.choice(links.shape[1], p=links[x] / links[x].sum()) for x in start])
    midpoints = np.stack(np.unravel_index(flat, joint.shape[1:]), axis=1)
    found = chain.target_logits(
        systems.path_of(system),
        name,
        untrained_where_unmasked(system),
        jnp.asarray(system.states[start]),
        jnp.asarray(system.states[midpoints]),
        systems.full(32, t),
        systems.full(32, h),
    )
    places = np.concatenate([start[:, None], midpoints], axis=1).T
    logits = sum(w * made.logits(i)[at] for i, (w, at) in enumerate(zip(enumerable_chain.WEIGHTS[name], places)))
    found = np.asarray(jax.nn.softmax(paths.data_logits(systems.path_of(system), found)))[..., : system.text_vocab]
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True), atol=3e-5)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("selection", ["blind", "argmin", "boltzmann"])
def test_joint_law_of_the_midpoints(source, name, selection):
    """From every x_t, the midpoints of chain.run follow the exact joint law of the method's chain, blind or shaped."""
    system, each, t, h = enumerable.draw(source, 1.0, 2, 2, seed=4), 4096, 0.25, 0.5
    made = enumerable_chain.Chain(system, name, t, h)
    energy, k = made.compass(), 1 if selection == "blind" else 4
    law = made.joint(k, selection, energy)
    start = np.flatnonzero(system.marginal_N(t) > 0)[:4]
    place_B, early_N, late_N = np.repeat(start, each), energy(t + h) if name == "heun" else energy(t + h / 2), energy(t + h)
    tables_2N = jnp.asarray(np.stack([early_N, late_N]), jnp.float32)
    cfg = shaping.ShapingConfig(candidates=k, selection="argmin" if k == 1 else selection)

    def score(x_BL, t_B):
        late_B = (t_B > t + 0.75 * h).astype(int)
        return tables_2N[late_B, systems.index_of(system, x_BL)], jnp.zeros(x_BL.shape)

    def one(key_B):
        x_BL = jnp.asarray(system.states)[place_B]
        t_B, h_B = systems.full(len(place_B), t), systems.full(len(place_B), h)
        args = systems.path_of(system), "bridge", name, systems.posterior_of(system), x_BL, t_B, h_B, score, cfg
        return chain.run(key_B, *args).x_BSL

    index = system.index(np.asarray(jax.jit(one)(systems.keys(12, len(place_B)))))
    cell = np.ravel_multi_index(tuple(index.T), law.shape[1:]).reshape(len(start), each)
    for row, x in zip(cell, start):
        flat = law[x].ravel()
        chance.assert_law(row, flat)


def distance(system, t, h, exact_NN, posterior_NLV):
    """(marginal, joint) total variation of one bridge jump by a posterior from the exact h-step transition, mean over x_t.

    The marginal one is per position, which is all that a factorised jump can match.
    """
    start, jump = system.marginal_N(system.kappa(t)), system.jump_NN("bridge", t, h, posterior_NLV)
    marginal = enumerable.tv(system.token_marginals(jump), system.token_marginals(exact_NN)).mean(axis=1)
    return start @ marginal, start @ enumerable.tv(jump, exact_NN)


KINDS = [("l1", "blind")] + [(name, selection) for name in MEANS for selection in ("blind", "boltzmann", "argmin")]


def measured(source, t=0.25, seeds=(3, 4, 5)):
    """Distances of every target by step size, mean over three systems: {"chain, selection": [sizes, 2]}.

    The exact transition is that of the continuous-time chain under the true posterior, a teacher's limit of many steps.
    "l1" is the single posterior at the start.
    """
    found = {kind: np.zeros((len(SIZES), 2)) for kind in KINDS}
    for seed in seeds:
        system = enumerable.draw(source, 1.0, 3, 2, seed, concentration=0.5)
        for i, h in enumerate(SIZES):
            exact_NN = system.flow_NN(t, t + h, 120)
            made = {name: enumerable_chain.Chain(system, name, t, h) for name in MEANS}
            compass = {name: chained.compass() for name, chained in made.items()}
            for name, selection in KINDS:
                choice = (1,) if selection == "blind" else (8, selection, compass[name])
                p = made["heun"].posteriors[0] if name == "l1" else made[name].target_NLV(made[name].joint(*choice))
                found[name, selection][i] += np.array(distance(system, t, h, exact_NN, p)) / len(seeds)
    return {", ".join(kind): table for kind, table in found.items()}


@pytest.mark.parametrize("source", paths.SOURCES)
def test_which_target_is_nearest(source, figures):
    """Each chain's target against the exact h-step transition, blind and shaped, by h.

    Uniform source: every blind chain is at least second order and nearer than the posterior at the start alone, and
    `classical` (Runge-Kutta) is nearest. Mask source: the posterior at the start is already exact in every marginal,
    since later posteriors average back to it, and a chain's mean of logits departs from it by h^2.
    """
    table = measured(source)
    order = {k: float(np.log2(v[-2, 0] / v[-1, 0])) for k, v in table.items() if v[-1, 0] > 1e-12}
    marginal = {k: v[:, 0] for k, v in table.items()}
    if source == "uniform":
        for name in MEANS:
            assert order[f"{name}, blind"] > 1.9 and (marginal[f"{name}, blind"] < marginal["l1, blind"]).all()
        assert (marginal["classical, blind"][:-1] < marginal["fsdfm, blind"][:-1] / 2).all()
    else:
        assert marginal["l1, blind"].max() < 1e-9
        assert all(order[f"{name}, blind"] > 1.8 for name in MEANS)
    figures.setdefault("targets", {})[source] = {
        k: {"h": SIZES, "marginal_tv": v[:, 0].tolist(), "joint_tv": v[:, 1].tolist(), "order": order.get(k)}
        for k, v in table.items()
    }

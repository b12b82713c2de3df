"""The path's joint law, and the ELBO: the upper bound on -log p(x_1) that the teacher trains on and the report shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from tests import chance
from tests.laws import enumerable, systems
from tsdfm_jax.flow import losses, path as paths

FEW = settings(max_examples=12, deadline=None, derandomize=True)


@given(system=systems.some(), t=strategies.floats(0.0, 1.0), seed=strategies.integers(0, 2**31))
@FEW
def test_joint_law_of_the_path(system, t, seed):
    """(x_1, x_t) has the law q(x_1) prod_i [kappa 1{x_t = x_1} + (1 - kappa) p_0(x_t)] (2407.15595)."""
    place, x_1_BL = systems.texts(system, 20_000, seed % 1000)
    x_t_BL = paths.sample_xt(systems.keys(seed, 20_000), systems.path_of(system), x_1_BL, systems.full(20_000, t))
    joint_ND = system.path_ND(system.kappa(t)) * system.text_law
    chance.assert_law(system.index(np.asarray(x_t_BL)) * len(system.texts) + place, joint_ND.ravel())


def nodes(count=80):
    """Nodes and weights of the integral over kappa in [0, 1), with kappa = 1 - v^3, since its end is at worst logarithmic."""
    x, w = np.polynomial.legendre.leggauss(count)
    v = (x + 1) / 2
    return 1 - v**3, w / 2 * 3 * v**2


def integrand_ND(system, kappa):
    """The generalised KL per unit of kappa, summed over positions, at every state and text."""
    p = system.posterior_NLV(kappa)
    x, x_1 = system.states[:, None], system.texts[None]
    same = x == x_1
    n, d = len(system.states), len(system.texts)
    place = np.arange(system.length)[None, None]
    at_data = p[np.arange(n)[:, None, None], place, np.broadcast_to(x_1, (n, d, system.length))]
    here = np.broadcast_to(np.minimum(x, system.text_vocab - 1), (n, d, system.length))
    at_here = p[np.arange(n)[:, None, None], place, here] * (x < system.text_vocab)
    log = np.log(np.maximum(at_data, 1e-300))
    reached = system.path_ND(kappa) > 0
    total = -(at_here - same + np.where(same, 0.0, log)).sum(axis=-1) / (1 - kappa)
    return np.where(reached, total, 0.0)


def bound_D(system):
    """The exact bound on -log p(x_1) for every text, by quadrature in float64."""
    return sum(w * (system.path_ND(k) * integrand_ND(system, k)).sum(axis=0) for k, w in zip(*nodes()))


@given(system=systems.some(sources=["mask"], shapes=((2, 1), (5, 1), (3, 2), (5, 2), (3, 3))))
@FEW
def test_the_bound_is_exact_under_the_mask_source(system):
    """With the true posterior the generalised KL's integral is -log p(x_1), for every x_1 and L (2412.03487)."""
    np.testing.assert_allclose(bound_D(system), -np.log(system.text_law), rtol=1e-9)


def gap_D(system, steps=400):
    """KL of the path given x_1 from the model's chain conditioned on ending in x_1, for every text.

    The chain with the true posterior ends in the data law. Conditioned on its end, it has rates multiplied by
    H(y)/H(x), H(x) = P(ends in x_1 | now in x) (Doob), which a backward equation gives. The bound exceeds
    -log p(x_1) by the divergence of the two laws of paths: of their starts, and of their rates.
    """
    v = np.linspace(0.0, 1.0, steps + 1)
    slope = lambda v, h: system.generator_NN(1 - v**4) @ h * 4 * v**3
    ends_ND, terms = np.eye(len(system.states))[:, system.text_state], []
    for a, b in zip(v, np.append(v[1:], np.nan)):
        terms.append(rate_divergence_D(system, 1 - a**4, ends_ND) * 4 * a**3 if a else np.zeros(len(system.texts)))
        if np.isfinite(b):
            m, h = (a + b) / 2, b - a
            k1 = slope(a, ends_ND)
            k2, half = slope(m, ends_ND + h / 2 * k1), h / 2
            k3 = slope(m, ends_ND + half * k2)
            ends_ND = ends_ND + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(b, ends_ND + h * k3))
    simpson = np.ones(steps + 1)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    np.testing.assert_allclose(system.source_N @ ends_ND, system.text_law, rtol=1e-6)  # the chain ends in the data law
    start_D = -(system.source_N[:, None] * np.log(ends_ND / system.text_law)).sum(axis=0)
    return start_D + (simpson[:, None] * np.array(terms)).sum(axis=0) / steps / 3


def rate_divergence_D(system, kappa, ends_ND):
    """E over x_t given x_1 of sum over moves of u log(u / w) - u + w: u the path's rates, w the conditioned chain's."""
    u = 1 / (1 - kappa)
    rates = system.rates_NLV(kappa)
    ratio = ends_ND[system.neighbour_NLV] / ends_ND[:, None, None]  # [N, L, V, D]
    tilted = rates[..., None] * ratio
    away = system.states[:, None] != system.texts[None]  # [N, D, L]
    onto = np.einsum("nlvd,dlv->ndl", tilted, system.onehot_DLV)
    log = np.log(u / np.where(away, onto, u))
    divergence = tilted.sum(axis=(1, 2)) + (away * (u * log - u)).sum(axis=2)
    return (system.path_ND(kappa) * divergence).sum(axis=0)


@given(system=systems.some(sources=["uniform"], shapes=((2, 1), (5, 1), (3, 2), (2, 3))))
@FEW
def test_the_bound_and_its_gap_under_the_uniform_source(system):
    """Under the uniform source the integral exceeds -log p(x_1), even at L = 1, by the divergence of the two laws of paths."""
    gap = bound_D(system) + np.log(system.text_law)
    assert (gap > 0).all()
    np.testing.assert_allclose(gap, gap_D(system), rtol=1e-4, atol=1e-6)


@given(system=systems.some(shapes=((5, 1), (3, 2))), t=strategies.floats(0.05, 0.95))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_the_code_s_integrand(system, t):
    """losses.generalised_kl is the integrand of 2412.03487 at every state and text that the path can reach."""
    kappa, path = system.kappa(t), systems.path_of(system)
    n, d = np.nonzero(system.path_ND(kappa) > 0)
    x_BL, x_1_BL = jnp.asarray(system.states[n]), jnp.asarray(system.texts[d])
    t_B = systems.full(len(n), t)
    found = losses.generalised_kl(path, systems.posterior_of(system)(x_BL, t_B), x_1_BL, x_BL, t_B).sum(axis=1)
    rate = system.exponent * t ** (system.exponent - 1)
    np.testing.assert_allclose(found, rate * integrand_ND(system, kappa)[n, d], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_the_estimator_has_no_bias(source, exponent, figures):
    """losses.elbo, the estimator behind the reported bits per byte, agrees with the quadrature within its standard error."""
    system = enumerable.draw(source, exponent, 3, 2, seed=0)
    path, posterior, repeats = systems.path_of(system), systems.posterior_of(system), 512
    x_1_BL = jnp.asarray(np.tile(system.texts, (repeats, 1)))
    nats = jax.jit(lambda key: losses.elbo(key, path, posterior, x_1_BL).sum(axis=1).reshape(repeats, -1).mean(axis=0))
    found = np.array([nats(jax.random.key(i)) for i in range(100)])
    exact = bound_D(system)
    chance.assert_mean(found, exact)
    weighted = found @ system.text_law
    figures.setdefault("bound", {})[f"{source}, n = {exponent:g}"] = {
        "entropy_nats": float(-(system.text_law * np.log(system.text_law)).sum()),
        "exact_bound_nats": float(exact @ system.text_law),
        "estimated_nats": float(weighted.mean()),
        "standard_error": float(weighted.std(ddof=1) / len(weighted) ** 0.5),
    }

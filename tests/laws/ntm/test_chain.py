"""The forward chain and its posterior, by algebra in float64 and by draws. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies

from tests import chance
from tests.laws.ntm import gaussian, small
from tsdfm_jax.ntm import chain

# (t, s) of a four-step schedule, and from_t, from_0 and scale of q(x_s | x_t, x_0), worked out from the equations by hand.
BY_HAND = {
    (1.0, 0.754): (0.0, 0.246, 0.754),
    (0.754, 0.509): (0.228, 0.435, 0.479),
    (0.509, 0.263): (0.178, 0.650, 0.247),
    (0.263, 0.020): (0.004, 0.977, 0.020),
}
TIME = strategies.floats(0.001, 1.0)
SCHEDULES = strategies.lists(TIME, min_size=5, max_size=5, unique_by=lambda t: round(t, 3)).map(sorted).map(np.array)
EXACT = settings(max_examples=12, deadline=None, derandomize=True)


def double(function, *given):
    """The package's function in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(x, jnp.float64) for x in given)))


@pytest.mark.parametrize("times, wanted", BY_HAND.items())
def test_posterior_values(times, wanted):
    """The posterior's numbers at the four steps, to the three digits that were worked out."""
    np.testing.assert_allclose(chain.posterior(times[1], times[0]), wanted, atol=6e-4)


@given(t_T=SCHEDULES)
@EXACT
def test_transitions_compose(t_T):
    """Composed step by step the transitions give marginals (1 - t, t²) and the stated covariance between all levels, in float64."""
    scale_T, noise_TT = gaussian.forward(t_T)
    np.testing.assert_allclose(scale_T, 1 - t_T, atol=1e-12)
    np.testing.assert_allclose(np.diag(noise_TT), t_T**2, rtol=1e-9)
    np.testing.assert_allclose(double(chain.covariance, t_T), noise_TT, atol=1e-12)
    np.testing.assert_allclose(double(chain.covariance, np.stack([t_T, t_T]))[1], noise_TT, atol=1e-12)
    alpha, sigma = double(chain.transition, t_T[:-1], t_T[1:])
    np.testing.assert_allclose(alpha * (1 - t_T[:-1]), 1 - t_T[1:], atol=1e-12)
    np.testing.assert_allclose((alpha * t_T[:-1]) ** 2 + sigma**2, t_T[1:] ** 2, rtol=1e-9)


@given(t_T=SCHEDULES)
@EXACT
def test_posterior_is_bayes_rule(t_T):
    """q(x_s | x_t, x_0) is the conditional of the joint law of (x_s, x_t) given x_0, at every pair of times, in float64."""
    found = double(chain.posterior, t_T[:-1], t_T[1:])
    for s, t, from_t, from_0, scale in zip(t_T[:-1], t_T[1:], *found):
        own = gaussian.forward(np.array([s, t]))[1]
        gain = own[0, 1] / own[1, 1]
        np.testing.assert_allclose(from_t, gain, atol=1e-9)
        np.testing.assert_allclose(from_0, (1 - s) - gain * (1 - t), atol=1e-9)
        np.testing.assert_allclose(scale**2, own[0, 0] - gain * own[0, 1], rtol=1e-6, atol=1e-12)


@given(t_T=SCHEDULES)
@EXACT
def test_float32_is_near(t_T):
    """In float32 transition and posterior are within 1e-4 of float64, relative to it, also where two times are near."""
    s, t = t_T[:-1].astype(np.float32), t_T[1:].astype(np.float32)
    for function in (chain.transition, chain.posterior):
        for found, wanted in zip(function(s, t), double(function, s, t)):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps, shift", [(1, 0.459), (4, 0.459), (8, -1.2), (16, 0.0)])
def test_schedule(steps, shift):
    """Levels rise from the given one to 1 by the paper's equation: evenly at μ = 0; nearer to noise above it."""
    t_BT = np.asarray(chain.schedule(jnp.asarray([0.001, 0.002]), steps, shift))
    np.testing.assert_allclose(t_BT[0], gaussian.levels(steps, shift, 0.001), rtol=1e-6)
    np.testing.assert_array_equal(t_BT[0, 1:], t_BT[1, 1:])
    assert (np.diff(t_BT, axis=1) > 0).all() and t_BT[1, 0] == np.float32(0.002) and t_BT[0, -1] == 1.0
    even = np.arange(1, steps) / steps
    assert (np.sign((t_BT[0, 1:-1] - even).round(6)) == np.sign(shift)).all()
    np.testing.assert_allclose([chain.paper_shift(256), chain.paper_shift(4096)], [0.5, 1.15])


def test_drawn_trajectories(figures):
    """Trajectories have the means and covariances of the law given x_0, and are Gaussian: Student's t and Kolmogorov at 1e-6 each."""
    rows, t_T = 16_384, gaussian.levels(3, 0.459, 0.02)
    x_0_BNd = jnp.broadcast_to(jnp.asarray([[[0.5, -1.0], [2.0, 0.0]]]), (rows, 2, 2))
    t_BT = jnp.broadcast_to(jnp.asarray(t_T, jnp.float32)[None], (rows, 4))
    xs_BTNd = np.asarray(jax.jit(chain.sample)(jax.random.split(jax.random.key(0), rows), x_0_BNd, t_BT))
    law = gaussian.trajectory(gaussian.Law(np.asarray(x_0_BNd[0]).ravel().astype(np.float64), np.zeros((4, 4))), t_T)
    z_RP = law.white(xs_BTNd.reshape(rows, -1))
    chance.assert_mean(z_RP, np.zeros(16))
    upper = np.triu_indices(16)
    chance.assert_mean((z_RP[:, :, None] * z_RP[:, None])[:, *upper], np.eye(16)[upper])
    pvalues = [scipy.stats.kstest(column, "norm").pvalue for column in z_RP.T]
    assert min(pvalues) > chance.FALSE_ALARM
    figures.setdefault("ntm", {})["chain"] = {"covariance_off": float(np.abs(np.cov(z_RP.T) - np.eye(16)).max()), "draws": rows}


def test_onward_from_a_level():
    """Given level 0 the further levels have the law of the chain given it: Student's t at 1e-6 on means and covariances."""
    rows, t_T = 8192, gaussian.levels(3, 0.459, 0.02)
    joint, below, above = gaussian.trajectory(gaussian.data(2, 0), t_T), np.arange(2), np.arange(2, 8)
    x_P, t_BT = np.array([0.7, -1.5]), jnp.broadcast_to(jnp.asarray(t_T, jnp.float32)[None], (rows, 4))
    given = jnp.broadcast_to(jnp.asarray(x_P, jnp.float32)[None, :, None], (rows, 2, 1))
    xs_BTNd = np.asarray(jax.jit(chain.onward)(keys(6, rows), given, t_BT))
    np.testing.assert_array_equal(xs_BTNd[:, 0], given)
    gain, offset, covariance = joint.conditional(above, below)
    z_RP = gaussian.Law(gain @ x_P + offset, covariance).white(xs_BTNd[:, 1:].reshape(rows, -1))
    upper = np.triu_indices(6)
    chance.assert_mean(z_RP, np.zeros(6))
    chance.assert_mean((z_RP[:, :, None] * z_RP[:, None])[:, *upper], np.eye(6)[upper])


def test_density_of_the_chain():
    """log q(x_1 … x_T | x_0) is the conditional density of the Gaussian law of the levels, to 1e-3 nats."""
    t_T, rng = gaussian.levels(4, 0.0, 0.05), np.random.default_rng(0)
    law = gaussian.trajectory(gaussian.data(3, 0), t_T)
    xs_RP, below = law.draw(rng, 64), gaussian.level(3, 0)
    wanted = law.log_density(xs_RP) - law.part(below).log_density(xs_RP[:, below])
    t_BT = jnp.broadcast_to(jnp.asarray(t_T, jnp.float32)[None], (64, 5))
    np.testing.assert_allclose(chain.log_density(jnp.asarray(xs_RP, jnp.float32).reshape(64, 5, 3, 1), t_BT), wanted, atol=1e-3)


def keys(seed, count):
    """Fresh keys, the same at every call."""
    return jax.random.split(jax.random.key(seed), count)


def test_a_row_depends_on_its_own_key_alone():
    """A row's trajectory is the same to the bit in another batch, at another place, and beside other data and times."""
    x_0_BNd, t_BT = small.normal(2, 6, 3, 2), chain.schedule(jnp.linspace(0.01, 0.05, 6), 4, 0.459)
    sample, order = jax.jit(chain.sample), np.array([4, 1, 0])
    whole = np.asarray(sample(keys(1, 6), x_0_BNd, t_BT))
    np.testing.assert_array_equal(sample(keys(1, 6)[order], x_0_BNd[order], t_BT[order]), whole[order])
    others = np.asarray(sample(keys(1, 6).at[0].set(jax.random.key(9)), x_0_BNd.at[1].add(1.0), t_BT))
    np.testing.assert_array_equal(others[2:], whole[2:])
    assert (others[:2] != whole[:2]).any(axis=(1, 2, 3)).all() and len(np.unique(whole[:, 0])) == 36


def test_a_pair_is_two_levels_of_a_trajectory():
    """sample_pair is `sample` of two levels."""
    x_0_BNd, s_B, t_B = small.normal(4, 5, 3, 2), jnp.full(5, 0.3), jnp.full(5, 0.7)
    x_s, x_t = chain.sample_pair(keys(3, 5), x_0_BNd, s_B, t_B)
    both = chain.sample(keys(3, 5), x_0_BNd, jnp.stack([s_B, t_B], axis=1))
    np.testing.assert_array_equal(jnp.stack([x_s, x_t], axis=1), both)

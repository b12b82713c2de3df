"""Sampling and guidance against Gaussian algebra, and flow matching's Euler. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests import chance
from tests.laws.ntm import exact, gaussian, small, test_likelihood as gaussian_case
from tsdfm_jax.ntm import flow_matching, likelihood, sampler

N, STEPS, TIMES = gaussian_case.N, gaussian_case.STEPS, gaussian_case.TIMES
T_T = jnp.asarray(TIMES, jnp.float32)


def keys(seed, count):
    """Fresh keys, the same at every call."""
    return jax.random.split(jax.random.key(seed), count)


def predictor(weights, rows):
    """`predict` of the hand-made linear model, as the sampler asks for it."""
    model, pace_B = exact.model(TIMES, N), jnp.full(rows, 1 / STEPS)
    return lambda u_BNd, t_B, s_B: model.predict(weights, u_BNd, t_B, s_B, pace_B, None)


def trajectories(weights, key_B, noise_free=False):
    """(u, x) at every level, [B, T + 1, N, d], of the hand-made linear model."""
    rows, model = len(key_B), exact.model(TIMES, N)
    us_BTNd = sampler.sample(key_B, predictor(weights, rows), (N, 1), T_T, noise_free)
    t_BT = jnp.broadcast_to(T_T[None], (rows, STEPS + 1))
    xs = model.invert(weights, likelihood.merge(us_BTNd), likelihood.merge(t_BT), jnp.ones(rows * (STEPS + 1)))
    xs_BTNd = xs.reshape(us_BTNd.shape).at[:, -1].set(us_BTNd[:, -1])
    return us_BTNd, xs_BTNd


def test_sampled_trajectories_have_the_models_law(figures):
    """Noise, T steps and the inversion give the law of the data's trajectories: means and covariances, Student's t at 1e-6 each."""
    rows, (_, joint, weights) = 16_384, gaussian_case.case(1)
    weights = gaussian_case.single(weights)
    us_BTNd, xs_BTNd = jax.jit(lambda key_B: trajectories(weights, key_B))(keys(0, rows))
    z_RP = joint.white(np.asarray(xs_BTNd, np.float64).reshape(rows, -1))
    upper = np.triu_indices(z_RP.shape[1])
    chance.assert_mean(z_RP, np.zeros(z_RP.shape[1]))
    chance.assert_mean((z_RP[:, :, None] * z_RP[:, None])[:, *upper], np.eye(z_RP.shape[1])[upper])
    free_BTNd, _ = jax.jit(lambda key_B: trajectories(weights, key_B, True))(keys(0, rows))
    np.testing.assert_array_equal(free_BTNd[:, 1:], us_BTNd[:, 1:])
    mean, log_scale = predictor(weights, rows)(us_BTNd[:, 1], jnp.full(rows, T_T[1]), jnp.full(rows, T_T[0]))
    np.testing.assert_allclose(free_BTNd[:, 0], mean, atol=1e-5)
    chance.assert_mean(((us_BTNd[:, 0] - mean) / jnp.exp(log_scale)) ** 2, np.ones((N, 1)))
    figures.setdefault("ntm", {})["sampling"] = {"covariance_off": float(np.abs(np.cov(z_RP.T) - np.eye(15)).max()), "draws": rows}


def test_a_row_depends_on_its_own_key_alone():
    """A sampled trajectory is the same to the bit in another order and beside others, and to rounding in another batch size."""
    weights = gaussian_case.single(gaussian_case.case(0)[2])
    draw, order = jax.jit(lambda key_B: trajectories(weights, key_B)[1]), np.array([5, 3, 0, 4, 2, 1])
    whole = np.asarray(draw(keys(1, 6)))
    np.testing.assert_array_equal(draw(keys(1, 6)[order]), whole[order])
    np.testing.assert_array_equal(draw(keys(1, 6).at[0].set(jax.random.key(8)))[1:], whole[1:])
    np.testing.assert_allclose(draw(keys(1, 6)[2:5]), whole[2:5], atol=1e-5)
    assert len(np.unique(whole[:, -1])) == 6 * N


def laws(seed, rows=64):
    """(mean, log σ) of a conditional and an unconditional prediction, in float32."""
    return tuple((small.normal(seed + i, rows), 0.5 * small.normal(seed + 2 + i, rows)) for i in (0, 1))


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_guidance_is_a_product_of_powers(weight, figures):
    """Where σ_c ≤ σ_u it is the density p_c^(1 + w) / p_u^w, normalised: mean, σ, and the same ratio at every point."""
    (mean_c, log_c), (mean_u, log_u) = ((np.float64(m), np.float64(s)) for m, s in laws(0))
    narrow = log_c <= log_u
    mean, log_scale = (np.float64(x) for x in sampler.guided(*laws(0), weight))
    precision = (1 + weight) * np.exp(-2 * log_c) - weight * np.exp(-2 * log_u)
    centre = ((1 + weight) * np.exp(-2 * log_c) * mean_c - weight * np.exp(-2 * log_u) * mean_u) / precision
    np.testing.assert_allclose(log_scale[narrow], -0.5 * np.log(precision[narrow]), atol=1e-5)
    np.testing.assert_allclose(mean[narrow], centre[narrow], rtol=1e-4, atol=1e-4)
    # Where σ_c > σ_u there may be no such density: s is cut to 1, which keeps σ_c and moves the mean.
    np.testing.assert_allclose(log_scale[~narrow], log_c[~narrow], atol=1e-5)
    np.testing.assert_allclose(mean[~narrow], ((1 + weight) * mean_c - weight * mean_u)[~narrow], atol=1e-4)
    assert 10 < narrow.sum() < 54
    at = np.linspace(-2, 2, 5)[:, None]
    log_p = lambda m, s: -0.5 * ((at - m) / np.exp(s)) ** 2 - s
    ratio = ((1 + weight) * log_p(mean_c, log_c) - weight * log_p(mean_u, log_u) - log_p(mean, log_scale))[:, narrow]
    np.testing.assert_allclose(ratio - ratio.mean(axis=0), 0.0, atol=1e-3)
    figures.setdefault("ntm", {}).setdefault("guidance", {})[str(weight)] = small.off(mean[narrow], centre[narrow])


def test_no_guidance_is_the_conditional():
    """Weight 0 gives the conditional prediction to the bit, whatever the unconditional one; so does an equal unconditional one."""
    given, alone = laws(10)
    for found, wanted in zip(sampler.guided(given, alone, 0.0), given):
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(sampler.guided(given, given, 3.0), given):
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_array_equal(flow_matching.guided(given[0], alone[0], 0.0), given[0])
    np.testing.assert_allclose(flow_matching.guided(given[0], alone[0], 0.5), 1.5 * given[0] - 0.5 * alone[0], rtol=1e-6)


def exact_velocity(law):
    """E[ε - x_0 | x_t] for Gaussian data: `velocity(x_BNd, t_B)`, affine in x."""
    mean, covariance = jnp.asarray(law.mean, jnp.float32), jnp.asarray(law.covariance, jnp.float32)

    def velocity(x_BNd, t_B):
        def one(x_N, t):
            across = t * jnp.eye(N) - (1 - t) * covariance  # Cov(ε - x_0, x_t)
            own = t**2 * jnp.eye(N) + (1 - t) ** 2 * covariance
            return across @ jnp.linalg.solve(own, x_N - (1 - t) * mean) - mean

        return jax.vmap(one)(x_BNd[..., 0], t_B)[..., None]

    return velocity


def test_euler_tends_to_the_law(figures):
    """With the exact velocity Euler's end is affine in the noise, and tends to x_0 = m + S^½ ε with an error of order one over the steps."""
    law = gaussian.data(N, 0)
    value, vector = np.linalg.eigh(law.covariance)
    root, start = vector @ np.diag(np.sqrt(value)) @ vector.T, jnp.concatenate([jnp.zeros((1, N)), jnp.eye(N)])[..., None]
    means, roots = {}, {}
    for steps in (16, 64, 256, 512):
        states = np.asarray(jax.jit(lambda x, steps=steps: flow_matching.euler(exact_velocity(law), x, steps))(start), np.float64)
        assert states.shape == (N + 1, steps + 1, N, 1)
        np.testing.assert_array_equal(states[:, -1], start)
        shift, *ends = states[:, 0, :, 0]
        means[steps], roots[steps] = np.abs(shift - law.mean).max(), np.abs((np.array(ends) - shift).T - root).max()
    once = jax.jit(lambda x: flow_matching.euler(exact_velocity(law), x, 1))(start)[:, 0, :, 0]
    np.testing.assert_allclose(once, np.broadcast_to(law.mean, once.shape), atol=1e-5)  # from pure noise: the mean of the data
    order = np.log2(roots[256] / roots[512])
    assert 0.9 < order < 1.1 and roots[512] < 0.01 and means[512] < 0.01 and roots[16] > 0.03
    figures.setdefault("ntm", {})["euler"] = {"off": {str(n): float(v) for n, v in roots.items()}, "order": float(order)}


def test_the_loss_has_its_least_at_the_exact_velocity():
    """Its mean there is Var(ε - x_0 | x_t), which no velocity betters; a wrong one has its square error on top. Student's t at 1e-6."""
    law, rows, t = gaussian.data(N, 0), 8192, 0.4
    x_0_BNd = jnp.asarray(law.draw(np.random.default_rng(0), rows), jnp.float32)[..., None]
    across, own = t * np.eye(N) - (1 - t) * law.covariance, t**2 * np.eye(N) + (1 - t) ** 2 * law.covariance
    least = np.trace(np.eye(N) + law.covariance - across @ np.linalg.solve(own, across.T)) / N
    for off in (0.0, 0.3):
        wrong = lambda x_BNd, t_B, off=off: exact_velocity(law)(x_BNd, t_B) + off
        errors_B = flow_matching.errors(wrong, small.normal(2, rows, N, 1), x_0_BNd, jnp.full(rows, t))
        chance.assert_mean(errors_B, least + off**2)


@pytest.mark.parametrize("uniform", [0.0, 0.2, 1.0])
def test_training_times(uniform):
    """Their law is the mixture of logit-normal and uniform: chi-squared over ten equal cells at 1e-6."""
    time_N = flow_matching.times(jax.random.key(0), 20_000, 0.2, 1.0, uniform)
    edges = np.linspace(0, 1, 11)
    inner = np.concatenate([[-np.inf], np.log(edges[1:-1] / (1 - edges[1:-1])), [np.inf]])
    by_logit = np.diff(scipy.stats.norm.cdf(inner, 0.2, 1.0))
    chance.assert_law(np.minimum((np.asarray(time_N) * 10).astype(int), 9), (1 - uniform) * by_logit + uniform / 10)

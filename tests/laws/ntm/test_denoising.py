"""Score denoising against the posterior mean of Gaussian data. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.ntm import exact, gaussian, test_likelihood as gaussian_case
from tsdfm_jax.ntm import denoising, likelihood

N, TIMES = gaussian_case.N, gaussian_case.TIMES
CLIPPED = 12  # rows


def correction(found_BNd, xs_BTNd):
    """What denoising added to level 0, at its scale."""
    return np.asarray((1 - TIMES[0]) * found_BNd - xs_BTNd[:, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_denoised_is_the_posterior_mean(seed, figures):
    """With the exact model it is E[x_0 | x_t0 … x_tT], by the algebra of the joint law, and E[x_0 | x_t0] at that, within 1e-4."""
    law, joint, weights = gaussian_case.case(seed)
    both = gaussian.trajectory(law, TIMES, with_data=True)
    xs_RP = joint.draw(np.random.default_rng(seed), 64)
    xs_BTNd, t_BT = gaussian_case.rows_of(xs_RP)

    def log_density(xs_BTNd):
        model, w = exact.model(TIMES, N), gaussian_case.single(weights)
        return -likelihood.trajectory_nll(model, w, xs_BTNd, t_BT, None).sum(axis=1)

    found = np.asarray(jax.jit(lambda xs: denoising.denoised(log_density, xs, t_BT))(xs_BTNd))[..., 0]
    for last in (len(TIMES), 1):  # given all levels; given level 0
        known = np.arange(N, N * (1 + last))
        gain, offset, _ = both.conditional(np.arange(N), known)
        gap = np.abs(found - (xs_RP[:, : N * last] @ gain.T + offset)).max()
        assert gap < 1e-4, (last, gap)
    assert np.abs(found - xs_RP[:, :N] / (1 - TIMES[0])).max() > 1e-3  # the score does something
    row = figures.setdefault("ntm", {}).setdefault("denoising", {"off": 0.0})
    row["off"] = max(row["off"], float(gap))


def test_the_first_level_is_read_as_it_is_without_a_score():
    """A flat density leaves x_t0 / (1 - t0)."""
    xs_BTNd, t_BT = gaussian_case.rows_of(np.random.default_rng(0).normal(size=(4, N * len(TIMES))))
    found = denoising.denoised(lambda xs: jnp.zeros(4), xs_BTNd, t_BT)
    np.testing.assert_allclose(found, xs_BTNd[:, 0] / (1 - np.float32(TIMES[0])), rtol=1e-6)


def test_clip():
    """Below 1 it cuts the parts of an image's correction to that quantile of their sizes, keeps their signs and the smaller parts."""
    rng = np.random.default_rng(0)
    xs_BTNd = jnp.asarray(rng.normal(size=(CLIPPED, 5, 7, 3)), jnp.float32)
    t_BT = jnp.broadcast_to(jnp.asarray(TIMES, jnp.float32)[None], (CLIPPED, 5))
    log_density = lambda xs: -0.25 * (xs**4).reshape(CLIPPED, -1).sum(axis=1)
    whole, cut = (correction(denoising.denoised(log_density, xs_BTNd, t_BT, clip), xs_BTNd) for clip in (1.0, 0.5))
    most_B = np.quantile(np.abs(whole).reshape(CLIPPED, -1), 0.5, axis=1)[:, None, None]
    np.testing.assert_allclose(cut, np.clip(whole, -most_B, most_B), atol=1e-6)
    assert (np.abs(whole) > most_B * 1.01).mean() > 0.4

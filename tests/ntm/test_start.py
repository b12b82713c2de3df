"""The predictor in terms of a velocity. Time runs from 0 = data to 1 = noise."""

import jax.numpy as jnp
import numpy as np

from tests.laws.ntm import gaussian, small
from tsdfm_jax.ntm import chain, start


def test_predicted_is_the_posterior_of_the_guessed_data():
    """Mean and σ are q(x_s | x_t, x̂_0) with x̂_0 = u - t v, by the algebra of the chain; a δ multiplies σ by its exponential."""
    u_BNd, v_BNd, times = small.normal(0, 3, 2, 2), small.normal(1, 3, 2, 2), [(0.02, 0.3), (0.3, 0.7), (0.7, 1.0)]
    s_B, t_B = (jnp.asarray(x) for x in zip(*times))
    mean, log_scale = start.predicted(u_BNd, t_B, s_B, v_BNd)
    for row, (s, t) in enumerate(times):
        guess, own = np.asarray(u_BNd[row] - t * v_BNd[row]), gaussian.forward(np.array([s, t]))[1]
        gain = own[0, 1] / own[1, 1]
        np.testing.assert_allclose(mean[row], (1 - s) * guess + gain * (u_BNd[row] - (1 - t) * guess), atol=1e-5)
        np.testing.assert_allclose(np.exp(2 * log_scale[row]), own[0, 0] - gain * own[0, 1], rtol=1e-5)
    same, wider = start.predicted(u_BNd, t_B, s_B, v_BNd, jnp.full_like(v_BNd, 0.1))
    np.testing.assert_array_equal(same, mean)
    np.testing.assert_allclose(wider - log_scale, 0.1, rtol=1e-3)


def test_anchor():
    """It is zero at flow matching's own mean, and else the mean square of the distance, row by row."""
    u_BNd, v_BNd, s_B, t_B = small.normal(0, 3, 2, 2), small.normal(1, 3, 2, 2), jnp.full(3, 0.3), jnp.full(3, 0.7)
    mean, _ = start.predicted(u_BNd, t_B, s_B, v_BNd)
    np.testing.assert_array_equal(start.anchor(mean, u_BNd, t_B, s_B, v_BNd), np.zeros(3))
    away = jnp.asarray([0.0, 0.5, 2.0])
    np.testing.assert_allclose(start.anchor(mean + chain.expand(away, mean), u_BNd, t_B, s_B, v_BNd), away**2, rtol=1e-5)

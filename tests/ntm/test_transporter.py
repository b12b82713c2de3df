"""The soft limit of log σ, and what it keeps finite. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.ntm import likelihood, start, transporter


def test_soft_limit():
    """It is odd, rising, of slope one at zero, near x where x is small, and never beyond ±5."""
    x = jnp.arange(-1200, 1201) / 20.0
    y = np.asarray(transporter.soft_limit(x))
    np.testing.assert_allclose(y, -y[::-1], atol=1e-6)
    assert (
        (np.diff(y) > -1e-6).all()
        and (np.diff(y)[1100:1300] > 0).all()
        and np.abs(y).max() <= transporter.LIMIT == 5.0
        and y[-1] > 4.999
    )
    assert float(jax.grad(transporter.soft_limit)(0.0)) == 1.0
    np.testing.assert_allclose(transporter.soft_limit(jnp.asarray([0.1, -0.3])), [0.1, -0.3], rtol=2e-3)
    np.testing.assert_allclose(transporter.soft_limit(x, 2.0)[-1], 2.0, rtol=1e-6)


def extreme(size):
    """A Model whose networks say ±size for every log σ."""
    wild = lambda x_BNd: jnp.where(jnp.arange(x_BNd.shape[1])[None, :, None] % 2 == 0, size, -size) * jnp.ones_like(x_BNd)
    network = transporter.Network(lambda w, x, t: transporter.Affine(jnp.zeros_like(x), wild(x)), None, None)
    return likelihood.Model(
        transport=lambda params, x, t, pace: transporter.forward(network, [0], x, t[:, None]),
        invert=None,
        predict=lambda params, u, t, s, pace, condition: start.predicted(u, t, s, jnp.zeros_like(u), wild(u)),
    )


def test_wild_scales_stay_finite():
    """With outputs of 1e6 for log σ the likelihood and its gradient are finite, and log σ moves by 5 at most."""
    t_BT, xs_BTNd = jnp.asarray([[0.02, 0.4, 1.0]]), jnp.ones((1, 3, 4, 2))
    nll = lambda xs, size: likelihood.trajectory_nll(extreme(size), None, xs, t_BT, None).sum()
    value, slope = jax.jit(jax.value_and_grad(nll))(xs_BTNd, 1e6)
    assert np.isfinite(value) and np.isfinite(slope).all()
    model = extreme(1e6)
    _, born = start.predicted(xs_BTNd[:, 1], t_BT[:, 1], t_BT[:, 0], jnp.zeros((1, 4, 2)))
    _, wild = model.predict(None, xs_BTNd[:, 1], t_BT[:, 1], t_BT[:, 0], None, None)
    np.testing.assert_allclose(np.abs(wild - born), 5.0, rtol=1e-5)
    u_BNd, log_scale_B = model.transport(None, xs_BTNd[:, 0], t_BT[:, 0], None)
    np.testing.assert_allclose(u_BNd[0, :, 0], np.exp([-5.0, 5.0, -5.0, 5.0]), rtol=1e-4)
    np.testing.assert_allclose(log_scale_B, 0.0, atol=1e-5)

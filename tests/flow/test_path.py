"""The path's marginals, and the losses on the path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tsdfm_jax.flow import losses, path as paths


def keys(seed, n):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_marginals(source, exponent, t):
    """x_t is x_1 with probability kappa(t), else a draw from the source (2407.15595), at t = 0, 1/2 and 1."""
    path, n = paths.Path(source=source, exponent=exponent, text_vocab=4), 20_000
    x_1_BL = jnp.full((n, 1), 2)
    x_t = np.asarray(paths.sample_xt(keys(0, n), path, x_1_BL, jnp.full((n,), t)))[:, 0]
    law = np.full(4, (1 - t**exponent) / 4) if source == "uniform" else np.array([0, 0, 0, 0, 1 - t**exponent])
    law[2] += t**exponent
    chance.assert_law(x_t, law)


def test_keep_is_the_ratio_of_what_is_left():
    """r = (1 - kappa(t + h)) / (1 - kappa(t)) multiplies over steps, and is 0 for a step that ends at 1."""
    path = paths.Path(source="uniform", exponent=2.0, text_vocab=4)
    r = lambda t, h: float(paths.keep(path, jnp.float32(t), jnp.float32(h)))
    assert r(0.2, 0.6) == pytest.approx(r(0.2, 0.3) * r(0.5, 0.3), rel=1e-5)
    assert r(0.5, 0.5) == 0.0 and r(0.0, 1.0) == 0.0 and r(1.0, 0.1) == 0.0


def test_stratified_times_cover_the_line():
    """Each stratum has exactly one time, and all times are below the maximum."""
    t = np.sort(np.asarray(paths.stratified_times(jax.random.key(3), 64, 0.999)))
    assert (np.floor(t / 0.999 * 64) == np.arange(64)).all() and t.max() < 0.999


def test_the_mask_is_never_predicted():
    """Under the mask source the posterior gives the mask token zero mass, whatever the network's logits."""
    path = paths.Path(source="mask", exponent=1.0, text_vocab=3)
    x_BL = jnp.arange(4)[None]
    nll = losses.negative_log_posterior(path, jnp.array([[0.0, 1.0, 2.0, 50.0]] * 4)[None], x_BL)[0]
    assert np.isposinf(nll[3]) and float(jnp.exp(-nll[:3]).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("source", paths.SOURCES)
def test_generalised_kl_by_hand(source):
    """The loss is the integrand of 2412.03487, at a position with x_t = x_1 and at one without."""
    path = paths.Path(source=source, exponent=2.0, text_vocab=3)
    p = np.array([0.2, 0.5, 0.3])
    logits = jnp.log(jnp.array(np.append(p, 1e-9) if source == "mask" else p))[None, None].repeat(2, axis=1)
    x_1, away = jnp.array([[1, 1]]), 3 if source == "mask" else 0
    got = losses.generalised_kl(path, logits, x_1, jnp.array([[1, away]]), jnp.array([0.5]))[0]
    rate = 2 * 0.5 / (1 - 0.25)
    stays = 1.0 if source == "mask" else p[1]
    leaves = 0.0 if source == "mask" else p[0]
    np.testing.assert_allclose(got, [-rate * (stays - 1), -rate * (leaves + np.log(p[1]))], rtol=1e-5)


@pytest.mark.parametrize("source", paths.SOURCES)
def test_losses_differentiate(source):
    """Every loss is finite in value and gradient, even where the target has tokens of zero mass."""
    path = paths.Path(source=source, exponent=1.0, text_vocab=5)
    logits = jax.random.normal(jax.random.key(0), (2, 4, path.vocab))
    target = jnp.where(jnp.arange(path.vocab)[None, None] == 0, -jnp.inf, logits)
    x = jnp.array([[0, 1, 2, path.vocab - 1]] * 2)
    t = jnp.array([0.0, 0.999])
    for f in (
        lambda l: losses.generalised_kl(path, l, x % 5, x, t),
        lambda l: losses.cross_entropy(path, l, x % 5, x, t),
        lambda l: losses.distillation_kl(path, target, l, x),
        lambda l: losses.entropy(path, l, x),
    ):
        assert np.isfinite(f(logits)).all() and np.isfinite(jax.grad(lambda l: f(l).sum())(logits)).all()


def test_distillation_kl_is_zero_at_the_target():
    """The forward KL is 0 where student and target agree, and the sum of p log(p/q) otherwise."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=5)
    a, b = jax.random.normal(jax.random.key(0), (2, 1, 3, 5))
    x = jnp.zeros((1, 3), int)
    np.testing.assert_allclose(losses.distillation_kl(path, a, a, x), 0.0, atol=1e-6)
    p, q = jax.nn.softmax(a), jax.nn.softmax(b)
    np.testing.assert_allclose(losses.distillation_kl(path, a, b, x), (p * jnp.log(p / q)).sum(-1), rtol=1e-4)


def test_nce_prefers_low_energy_for_data():
    """A lower energy of data, with a higher energy of generated text, lowers the loss."""
    assert losses.nce(-1.0, 1.0) < losses.nce(0.0, 0.0) < losses.nce(1.0, -1.0)


def test_both_ways_to_read_a_tokens_value():
    """The CPU's look-up and the masked sum of other devices agree, at zero mass too, and keep the values' type."""
    rng = np.random.default_rng(0)
    values_BLV, x_BL = rng.normal(size=(2, 5, 7)).astype(np.float32), rng.integers(0, 7, (2, 5))
    values_BLV[..., 3], x_BL[0, 0] = -np.inf, 3
    wanted_BL = values_BLV[np.arange(2)[:, None], np.arange(5)[None], x_BL]
    for read in (paths.at, paths._look_up, paths._masked_sum):
        np.testing.assert_array_equal(read(jnp.asarray(values_BLV), jnp.asarray(x_BL)), wanted_BL)
        assert read(jnp.asarray(values_BLV, jnp.bfloat16), jnp.asarray(x_BL)).dtype == jnp.bfloat16

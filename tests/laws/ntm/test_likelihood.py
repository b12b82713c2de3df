"""The likelihood against Gaussian data, on which everything is known in closed form. Time runs from 0 = data to 1 = noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tests.laws.ntm import exact, gaussian
from tsdfm_jax.ntm import chain, likelihood

N, STEPS = 3, 4
TIMES = gaussian.levels(STEPS, 0.459, 0.02)
NUMBERS = N * (STEPS + 1)


@functools.cache
def case(seed):
    """(law of the data, law of its trajectories, weights of the model that is it)."""
    law = gaussian.data(N, seed)
    return law, gaussian.trajectory(law, TIMES), exact.tables(law, TIMES, seed)


def single(tree):
    """The tree in float32."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def moved(weights, seed, size=0.05):
    """The weights, each a little elsewhere."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + size * rng.normal(size=x.shape), weights)


def rows_of(xs_RP):
    """Flat trajectories as xs_BTNd and their times."""
    xs_BTNd = jnp.asarray(xs_RP, jnp.float32).reshape(len(xs_RP), -1, N, 1)
    return xs_BTNd, jnp.broadcast_to(jnp.asarray(TIMES, jnp.float32)[None], xs_BTNd.shape[:2])


@jax.jit
def nll_parts(weights, xs_RP):
    """trajectory_nll of flat trajectories, [R, T + 1]."""
    return likelihood.trajectory_nll(exact.model(TIMES, N), weights, *rows_of(xs_RP), None)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_exact_model_is_the_law_of_the_data(seed, figures):
    """At the optimum -log p is that of the Gaussian law of trajectories, one by one, and its mean is the entropy: within 1e-4 nats.

    The mean is over points that integrate every quadratic exactly, and each of the T + 1 parts has its own conditional entropy.
    """
    _, joint, weights = case(seed)
    drawn = joint.draw(np.random.default_rng(seed), 256) * 1.5
    each_R = np.asarray(nll_parts(single(weights), drawn), np.float64).sum(axis=1)
    gap = np.abs(each_R + joint.log_density(drawn)).max()
    mean_T = np.asarray(nll_parts(single(weights), joint.points()), np.float64).mean(axis=0)
    noise = gaussian.level(N, STEPS)
    parts = [joint.conditional(gaussian.level(N, k), gaussian.level(N, k + 1))[2] for k in range(STEPS)]
    parts = [0.5 * np.linalg.slogdet(2 * np.pi * np.e * part)[1] for part in [*parts, joint.part(noise).covariance]]
    np.testing.assert_allclose(mean_T, parts, atol=1e-4)
    assert gap < 1e-3 and abs(mean_T.sum() - joint.entropy()) < 1e-4
    row = figures.setdefault("ntm", {}).setdefault("entropy", {"nats_off": 0.0, "nats": []})
    row["nats_off"] = max(row["nats_off"], float(abs(mean_T.sum() - joint.entropy())))
    row["nats"].append(float(joint.entropy()))


def test_the_optimum_is_a_minimum():
    """The mean's gradient is zero in every weight at the optimum; elsewhere the mean is higher by the divergence of the laws."""
    _, joint, weights = case(0)
    mean = lambda weights: nll_parts(weights, joint.points()).sum(axis=1).mean()
    slope = jax.tree.leaves(jax.jit(jax.grad(mean))(single(weights)))
    assert max(float(jnp.abs(leaf).max()) for leaf in slope) < 2e-3
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(mean)(single(moved(weights, 0))))) > 0.1
    for seed in range(3):
        other = moved(weights, seed)
        over, divergence = float(mean(single(other))) - joint.entropy(), joint.divergence(exact.law_of(other, STEPS))
        np.testing.assert_allclose(over, divergence, rtol=1e-3, atol=1e-4)
        assert divergence > 0.01


def test_drawn_trajectories_have_the_entropy():
    """Trajectories from chain.sample have the law of the model: the mean of -log p is the entropy (Student's t at 1e-6)."""
    law, joint, weights = case(1)
    x_0_BNd = jnp.asarray(law.draw(np.random.default_rng(5), 8192), jnp.float32)[..., None]
    t_BT = jnp.broadcast_to(jnp.asarray(TIMES, jnp.float32)[None], (8192, STEPS + 1))
    xs_BTNd = jax.jit(chain.sample)(jax.random.split(jax.random.key(0), 8192), x_0_BNd, t_BT)
    chance.assert_mean(nll_parts(single(weights), xs_BTNd.reshape(8192, -1)).sum(axis=1), joint.entropy())


def test_the_bound_and_its_gap(figures):
    """E_q[bound] is -log p(x_0) of level 0 plus the divergence of q(x_1 … x_T | x_0) from the model's: equal where the model is exact.

    The mean over q is exact, by points; p(x_0) is the model's own, for the optimum and for three other models.
    """
    _, joint, weights = case(0)
    below, above = gaussian.level(N, 0), np.arange(N, NUMBERS)
    gain, offset, covariance = joint.conditional(above, below)  # the forward chain from level 0, whatever the law of the data
    gaps, off = [], []
    for weight in [weights, *(moved(weights, seed) for seed in range(3))]:
        own = exact.law_of(weight, STEPS)
        own_gain, own_offset, own_covariance = own.conditional(above, below)
        for x_0_P in joint.part(below).draw(np.random.default_rng(1), 3):
            given, told = (
                gaussian.Law(gain @ x_0_P + offset, covariance),
                gaussian.Law(own_gain @ x_0_P + own_offset, own_covariance),
            )
            xs_RP = np.concatenate([np.broadcast_to(x_0_P, (2 * len(above), N)), given.points()], axis=1)
            bound_R = likelihood.bound(nll_parts(single(weight), xs_RP), *rows_of(xs_RP))
            over = float(np.asarray(bound_R, np.float64).mean() + own.part(below).log_density(x_0_P[None])[0])
            np.testing.assert_allclose(over, given.divergence(told), rtol=2e-3, atol=1e-3)
            gaps.append(over)
            off.append(abs(over - given.divergence(told)))
            if weight is weights:
                assert np.ptp(bound_R) < 2e-3 and abs(over) < 1e-3  # at the optimum every single trajectory tells -log p(x_0)
    assert min(gaps) > -1e-3 and np.mean(gaps[3:]) > 0.05
    figures.setdefault("ntm", {})["bound"] = {"gaps": gaps, "nats_off": float(max(off))}


def test_pairs_are_the_whole():
    """The mean over all steps k of T times the likelihood of pair (k - 1, k) is the likelihood of the whole trajectory's steps."""
    _, joint, weights = case(0)
    xs_BTNd, t_BT = rows_of(joint.draw(np.random.default_rng(2), 32))
    step = jax.jit(
        lambda xs, t: likelihood.step_nll(exact.model(TIMES, N), single(weights), xs, t, jnp.full(32, 1 / STEPS), None)[0]
    )
    whole_BT = step(xs_BTNd, t_BT)
    pairs_BT = jnp.concatenate([step(xs_BTNd[:, k : k + 2], t_BT[:, k : k + 2]) for k in range(STEPS)], axis=1)
    np.testing.assert_allclose(pairs_BT, whole_BT, atol=1e-4)
    np.testing.assert_allclose((STEPS * pairs_BT).mean(axis=1), whole_BT.sum(axis=1), rtol=1e-5, atol=1e-4)
    whole = nll_parts(single(weights), joint.draw(np.random.default_rng(2), 32))
    np.testing.assert_allclose(whole[:, :-1], whole_BT, atol=1e-4)


def test_the_hand_made_model_is_a_bijection():
    """Its inverse by the package's scan gives back the data: the laws above are of a transporter that is no identity."""
    _, joint, weights = case(0)
    xs_BTNd, t_BT = rows_of(joint.draw(np.random.default_rng(3), 16))
    x, t, pace, m, w = likelihood.merge(xs_BTNd), likelihood.merge(t_BT), jnp.ones(80), exact.model(TIMES, N), single(weights)
    u, log_scale_B = m.transport(w, x, t, pace)
    np.testing.assert_allclose(m.invert(w, u, t, pace), x, atol=1e-4)
    assert float(jnp.abs(u - x).mean()) > 0.1 and float(jnp.ptp(log_scale_B)) > 0.1
    us_BTNd, log_scale_BT = likelihood.transported(m, w, xs_BTNd, t_BT, jnp.ones(16))
    np.testing.assert_array_equal(us_BTNd[:, -1], xs_BTNd[:, -1])
    assert not np.asarray(log_scale_BT[:, -1]).any() and np.asarray(log_scale_BT[:, :-1]).all()


def test_bits():
    """A number's bits: log 2 nats are one."""
    np.testing.assert_allclose(likelihood.bits(6 * np.log(2.0), 3), 2.0)

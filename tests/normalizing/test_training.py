"""What the learners of NTM are shown, and their updates on many devices. Time runs from 0 = data to 1 = noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from tests import chance
from tests.laws.ntm import gaussian, small
from tsdfm_jax.normalizing import networks, training
from tsdfm_jax.ntm import chain, likelihood, start
from tsdfm_jax.runtime import mesh as meshes

SHAPE = small.SHAPE
PLAIN = {"ntm.steps": (2, 3, 4), "ntm.optimiser.warmup": 1}


def mesh_of(data=1, fsdp=1, tensor=1):
    """A mesh of the first devices."""
    return meshes.make_mesh(meshes.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


def batch(rows, seed=0):
    """Images and labels."""
    return {"x": np.asarray(small.normal(seed, rows, *SHAPE.image)), "y": np.arange(rows, dtype=np.int32) % 3}


def shares(steps):
    """Probability of each (T, k) of a pair: even over T, and even over its steps."""
    return {(most, k): 1 / len(steps) / most for most in steps for k in range(most)}


def test_drawn_pairs():
    """A row's T is drawn evenly of `ntm.steps` and its step evenly of T: chi-squared at 1e-6. Its times, pace and weight are T's.

    So the mean of the weighted likelihood is the mean over T of the whole trajectory's: see the law of pairs.
    """
    c, rows = small.config(**{"ntm.steps": (1, 2, 4), "ntm.t_min": (0.01, 0.05)}), 4096
    x_0_BNd = small.normal(0, rows, 1, 1)
    pairs = jax.jit(lambda key, x: training.draw(c, key, x))(jax.random.key(0), x_0_BNd)
    law, found = shares(c.ntm.steps), []
    steps_B = np.round(1 / np.asarray(pairs.pace_B)).astype(int)
    np.testing.assert_array_equal(pairs.weight_B, steps_B)
    for t_2, most in zip(np.asarray(pairs.t_BT), steps_B):
        t_T = gaussian.levels(most, c.ntm.shift, 0.0)
        k = int(np.argmin(np.abs(t_T[1:] - t_2[1])))
        np.testing.assert_allclose(t_2[1], t_T[k + 1], rtol=1e-6)
        if k:
            np.testing.assert_allclose(t_2[0], t_T[k], rtol=1e-6)
        found.append((most, k))
    places = list(law)
    chance.assert_law([places.index(pair) for pair in found], list(law.values()))
    first = np.array([t_2[0] for t_2, (_, k) in zip(np.asarray(pairs.t_BT), found) if k == 0])
    assert scipy.stats.kstest(first, "uniform", (0.01, 0.04)).pvalue > chance.FALSE_ALARM and first.min() >= 0.01


def test_the_mean_over_pairs_is_the_mean_over_whole_trajectories():
    """Enumerated over every T and every step, the pair loss's expectation is the mean over T of the whole loss: to rounding."""
    c, rows = small.config(**{"ntm.steps": (2, 3)}), 4
    params, model = small.weights(c, SHAPE), networks.trajectory_model(c, SHAPE)
    condition, x_0_BNd = networks.Condition(jnp.arange(rows) % 3, jnp.ones(rows, bool)), small.normal(0, rows, *SHAPE.row)
    step = jax.jit(lambda xs, t, pace: likelihood.step_nll(model, params, xs, t, pace, condition)[0])
    pair_B, whole_B = 0.0, 0.0
    for steps in c.ntm.steps:
        t_BT = chain.schedule(jnp.full(rows, 0.03), steps, c.ntm.shift)
        xs_BTNd = chain.sample(jax.random.split(jax.random.key(steps), rows), x_0_BNd, t_BT)
        whole_B += np.asarray(step(xs_BTNd, t_BT, jnp.full(rows, 1 / steps))).sum(axis=1) / len(c.ntm.steps)
        for k in range(steps):
            one_B1 = step(xs_BTNd[:, k : k + 2], t_BT[:, k : k + 2], jnp.full(rows, 1 / steps))
            pair_B += shares(c.ntm.steps)[steps, k] * steps * np.asarray(one_B1)[:, 0]
    np.testing.assert_allclose(pair_B, whole_B, rtol=1e-5)


def test_whole_trajectories_are_drawn_whole():
    """With `ntm.loss` = trajectory a row has all T + 1 levels, weighs one, and its levels are those of the chain."""
    c = small.config(**{"ntm.loss": "trajectory", "ntm.steps": (4,)})
    found = training.draw(c, jax.random.key(0), small.normal(0, 8, 2, 3))
    assert found.xs_BTNd.shape == (8, 5, 2, 3) and not np.ptp(found.weight_B) and float(found.weight_B[0]) == 1.0
    np.testing.assert_array_equal(found.pace_B, np.full(8, 0.25, np.float32))
    for t_T in np.asarray(found.t_BT):
        np.testing.assert_allclose(t_T, gaussian.levels(4, c.ntm.shift, t_T[0]), rtol=1e-6)


def test_levels_never_reach_data():
    """Where the least level is drawn as 0 exactly, as one in millions is, likelihood and gradients are finite.

    A level at 0 itself would have no density.
    """
    c = small.config(**{"ntm.loss": "trajectory", "ntm.steps": (2,), "ntm.t_min": (0.0, 0.0)})
    found = training.draw(c, jax.random.key(0), small.normal(0, 8, 2, 3))
    s_B, t_B = found.t_BT[:, 0], found.t_BT[:, 1]
    assert (s_B > 0).all() and (s_B < 1e-5).all()

    def nll(v_BNd, delta_BNd):
        mean, log_scale = start.predicted(found.xs_BTNd[:, 1], t_B, s_B, v_BNd, delta_BNd)
        return -chain.normal_log_density((found.xs_BTNd[:, 0] - mean) * jnp.exp(-log_scale), log_scale).sum()

    value, slopes = jax.value_and_grad(nll, (0, 1))(small.normal(1, 8, 2, 3), small.normal(2, 8, 2, 3))
    assert np.isfinite(value) and all(np.isfinite(slope).all() and np.isfinite((slope**2).sum()) for slope in slopes)


def test_dropped_labels():
    """Each label is hidden with the share of the config: chi-squared at 1e-6; data without labels has no condition."""
    rows = 20_000
    condition = training.dropped(jax.random.key(0), {"x": None, "y": jnp.arange(rows)}, 0.1)
    chance.assert_law(np.asarray(condition.keep_B).astype(int), [0.1, 0.9])
    np.testing.assert_array_equal(condition.y, np.arange(rows))
    assert training.dropped(jax.random.key(0), {"x": None}, 0.1) is None
    assert training.dropped(jax.random.key(0), {"x": None, "y": jnp.arange(9)}, 0.0).keep_B.all()


@functools.cache
def updated(*mesh_shape):
    """(what two updates told, [2, 4], the weights after them) of a model that starts from flow matching's random weights."""
    c, mesh = small.config(**PLAIN, **{"model.width": 16, "transporter.flows": 1}), mesh_of(*mesh_shape)
    frozen = jax.device_put(small.network(networks.flow_matching(c, SHAPE)), meshes.replicated(mesh))
    learner = training.trajectory_learner(c, SHAPE, mesh, "ntm", frozen)
    state, told = learner.create(), []
    for number in range(2):
        state, figures = learner.step(state, meshes.put_batch(mesh, batch(16, number)))
        told.append([float(figures[name]) for name in ("loss", "grad_norm", "nats_per_number", "anchor")])
    return np.array(told), jax.device_get(state.params)


def test_updates_on_eight_devices_are_those_on_one():
    """Losses agree within 1e-5, gradient norms within 1e-4 (relative), and weights: over data × fsdp × tensor."""
    (one, weights), (other, others) = updated(1, 1, 1), updated(2, 2, 2)
    assert (one[1, :2] != one[0, :2]).all()
    np.testing.assert_allclose(other[:, 0], one[:, 0], rtol=1e-5)
    np.testing.assert_allclose(other[:, 1], one[:, 1], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(weights)):
        assert np.abs(a - b).mean() <= 1e-3 * np.abs(b).mean() + 1e-6


def test_the_anchor_begins_at_zero():
    """At the start the model's mean is flow matching's: the first loss is the likelihood alone; then λ times the anchor is on top."""
    (first, then), _ = updated(1, 1, 1)
    assert first[3] == 0.0 and first[0] == first[2]
    weight = 2.5 * 0.5 * (1 + np.cos(np.pi / small.config().ntm.optimiser.steps))
    assert then[3] > 0.0
    np.testing.assert_allclose(then[0], then[2] + weight * then[3], rtol=1e-6)


def test_microbatches_have_the_batchs_expectation():
    """The loss is a mean over rows, so two microbatches, which draw other noise, have its expectation: Welch's t at 1e-6.

    Here over 256 updates too small to change a weight; a sum over rows or a microbatch read twice would fail.
    """
    told = []
    for accumulate in (1, 2):
        changes = {"ntm.optimiser.accumulate": accumulate, "ntm.optimiser.learning_rate": 1e-30, "ntm.optimiser.weight_decay": 0.0}
        c = small.config(**PLAIN, **changes, **{"ntm.start": "scratch", "ntm.t_min": (0.04, 0.05)})
        learner = training.trajectory_learner(c, SHAPE, mesh_of(), "ntm_identity")
        state, rows = learner.create(), batch(4)
        rows["x"] = rows["x"] * np.array([1.0, 3.0, 1.0, 3.0], np.float32)[:, None, None, None]  # the two microbatches differ
        rows = meshes.put_batch(mesh_of(), rows)
        losses = []
        for _ in range(256):
            state, figures = learner.step(state, rows)
            losses.append(figures["nats_per_number"])
        told.append(np.array(jax.device_get(losses)))
    one, two = told
    assert scipy.stats.ttest_ind(one, two, equal_var=False).pvalue > chance.FALSE_ALARM
    assert abs(one.mean() - two.mean()) < 0.1 * one.mean() and not np.isin(two, one).any()

"""The networks of a config, and the start from flow matching. Time runs from 0 = data to 1 = noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.ntm import small
from tsdfm_jax.normalizing import networks, sampling, training
from tsdfm_jax.ntm import likelihood
from tsdfm_jax.runtime import mesh as meshes

SHAPE, ROWS = small.SHAPE, 5
N, D = SHAPE.row


def lone():
    """A mesh of one device."""
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


@functools.cache
def start():
    """(config, random weights of flow matching, weights of the trajectory model that starts from them)."""
    c = small.config()
    frozen = small.network(networks.flow_matching(c, SHAPE))
    return c, frozen, training.trajectory_learner(c, SHAPE, lone(), "ntm", frozen).create().params


def inputs():
    """u_BNd, t_B, s_B, T's pace, condition."""
    t_B, s_B = jnp.asarray([1.0, 1.0, 0.7, 0.4, 0.3]), jnp.asarray([0.6, 0.02, 0.3, 0.02, 0.1])
    condition = networks.Condition(jnp.arange(ROWS) % 3, jnp.asarray([True, False, True, True, False]))
    return small.normal(0, ROWS, N, D), t_B, s_B, jnp.full(ROWS, 0.25), condition


def test_the_start_is_the_pretrained_gaussian_sampler():
    """Before any update the predictor is flow matching's Gaussian sampler and u is x, both to the bit, whatever T it is told."""
    c, frozen, params = start()
    u_BNd, t_B, s_B, pace_B, condition = inputs()
    model, plain = networks.trajectory_model(c, SHAPE), networks.untrained(c, SHAPE)
    wanted = jax.jit(lambda u, condition: plain(frozen, u, t_B, s_B, condition))(u_BNd, condition)
    for pace in (pace_B, pace_B * 0 + 1):
        found = jax.jit(lambda u, pace, condition: model.predict(params, u, t_B, s_B, pace, condition))(u_BNd, pace, condition)
        for one, other in zip(found, wanted):
            np.testing.assert_array_equal(one, other)
    assert float(jnp.abs(wanted[0] - u_BNd).max()) > 0.1
    moved, log_scale_B = jax.jit(lambda x: model.transport(params, x, t_B, pace_B))(u_BNd)
    np.testing.assert_array_equal(moved, u_BNd)
    np.testing.assert_array_equal(jax.jit(lambda u: model.invert(params, u, t_B, pace_B))(u_BNd), u_BNd)
    assert not log_scale_B.any() and len(networks.weights_of_flows(params)) == 2


@pytest.mark.parametrize("guidance, ending", [(0.0, "noisy"), (0.5, "noise_free")])
def test_the_start_draws_what_the_untrained_sampler_draws(guidance, ending):
    """Its images are those of `start`, flow matching's weights sampled with the Gaussian steps.

    To rounding: each prediction is equal to the bit, but XLA fuses two programs of many steps in two ways.
    """
    c, frozen, params = start()
    index_B, y_B = jnp.arange(ROWS), jnp.arange(ROWS) % 3
    drawn = []
    for model, weights in (("ntm", params), ("start", frozen)):
        request = sampling.Request(model=model, steps=3, guidance=guidance, ending=ending)
        draw = sampling.drawer(c, SHAPE, request)
        drawn.append(jax.jit(lambda weights, draw=draw: draw(7, weights, index_B, y_B).x_BHWC)(weights))
    np.testing.assert_allclose(*drawn, atol=1e-5)
    assert drawn[0].shape == (ROWS, *SHAPE.image) and len(np.unique(drawn[0])) == drawn[0].size


def test_identity_models_have_no_transporter():
    """`ntm_identity` has no flow blocks; its likelihood is that of the predictor at u = x."""
    c = small.config()
    params = small.weights(c, SHAPE, "ntm_identity")
    assert set(params) == {"predictor"} and networks.flows(c, "ntm_identity") == 0 and networks.flows(c, "ntm") == 2
    model, (u_BNd, t_B, s_B, pace_B, condition) = networks.trajectory_model(c, SHAPE), inputs()
    mean, log_scale = model.predict(params, u_BNd, t_B, s_B, pace_B, condition)
    xs_B2Nd = jnp.stack([small.normal(1, ROWS, N, D), u_BNd], axis=1)
    nll_B1, told = likelihood.step_nll(model, params, xs_B2Nd, jnp.stack([s_B, t_B], axis=1), pace_B, condition)
    by_hand = 0.5 * ((xs_B2Nd[:, 0] - mean) / jnp.exp(log_scale)) ** 2 + log_scale + 0.5 * jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(nll_B1[:, 0], by_hand.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(told[:, 0], mean, rtol=1e-6)


def test_a_hidden_label_is_the_null_output():
    """Rows whose label is hidden are predicted as without any label, to the bit; the transporter is told no label at all."""
    c = small.config()
    params, model = small.weights(c, SHAPE), networks.trajectory_model(c, SHAPE)
    u_BNd, t_B, s_B, pace_B, condition = inputs()
    predict = jax.jit(lambda condition: model.predict(params, u_BNd, t_B, s_B, pace_B, condition))
    none = networks.Condition(condition.y * 0, jnp.zeros(ROWS, bool))
    for found, null, bare in zip(predict(condition), predict(none), predict(None)):
        np.testing.assert_array_equal(found[~condition.keep_B], null[~condition.keep_B])
        np.testing.assert_array_equal(null, bare)
        assert (np.abs(found - null).max(axis=(1, 2)) > 0)[condition.keep_B].all()
    assert {"label", "null"} & set(params["predictor"]["conditioning"]) == {"label", "null"}
    assert not {"label", "null", "vector"} & set(params["flows"]["0"]["conditioning"])


def test_bfloat16_computes_and_likelihoods_are_float32():
    """With bfloat16 networks the likelihood is float32, near float32's, and the inverse undoes the map."""
    plain, half = small.config(), small.config(**{"model.dtype": "bfloat16"})
    params, (x_BNd, t_B, s_B, pace_B, condition) = small.weights(plain, SHAPE), inputs()
    xs_B2Nd, t_B2 = jnp.stack([small.normal(1, ROWS, N, D), x_BNd], axis=1), jnp.stack([s_B, t_B], axis=1)
    found = []
    for c in (plain, half):
        model = networks.trajectory_model(c, SHAPE)
        nll_B1, mean = jax.jit(lambda p, m=model: likelihood.step_nll(m, p, xs_B2Nd, t_B2, pace_B, condition))(params)
        u_BNd, log_scale_B = jax.jit(lambda p, m=model: m.transport(p, x_BNd, t_B, pace_B))(params)
        back = jax.jit(lambda p, u, m=model: m.invert(p, u, t_B, pace_B))(params, u_BNd)
        assert {x.dtype for x in (nll_B1, mean, u_BNd, log_scale_B, back)} == {jnp.dtype("float32")}
        found.append((nll_B1, small.off(back, x_BNd)))
    (wanted, exact), (near, rounded) = found
    assert exact < 1e-5 and rounded < 0.05
    assert small.off(near, wanted) > 1e-3 and np.allclose(near, wanted, rtol=0.05)


def test_shape_says_what_does_not_fit():
    """A patch that does not divide the image is refused in one line with both."""
    with pytest.raises(ValueError, match="images.patch 3 does not divide images of 4 × 6"):
        dataclasses.replace(SHAPE, patch=3)
    assert SHAPE.grid == (2, 3) and SHAPE.row == (6, 8)

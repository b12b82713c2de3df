"""Drawing images: what an image depends on, and each ending. Time runs from 0 = data to 1 = noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.ntm import small
from tsdfm_jax.normalizing import networks, sampling
from tsdfm_jax.ntm import chain, likelihood, patches as cutting
from tsdfm_jax.runtime import mesh as meshes

SHAPE, STEPS, SEED = small.SHAPE, 3, 5
Y = np.arange(64, dtype=np.int32) % 3


@functools.cache
def weights(model):
    """(config, random weights of a model)."""
    c = small.config()
    if model in ("flow_matching", "start"):
        return c, small.network(networks.flow_matching(c, SHAPE))
    if model == "learned":
        return c, {"model": small.weights(c, SHAPE), "denoiser": small.network(networks.denoiser(c, SHAPE))}
    return c, small.weights(c, SHAPE, model)


def request(model="ntm", **more):
    return sampling.Request(**{"model": model, "steps": STEPS, "shift": 0.459} | more)


def drawn(one, index, mesh=None, with_states=False):
    """Images of these indices, over a mesh."""
    mesh = mesh or meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])
    c, params = weights("learned" if one.ending == "learned" else one.model)
    draw, split = sampling.drawer(c, SHAPE, one, with_states), meshes.batch_sharding(mesh)
    made = lambda seed, params, rows: draw(seed, params, rows["index"], rows["y"])
    jitted = meshes.seeded(mesh, made, SEED, in_shardings=(None, split), out_shardings=split)
    index = np.asarray(index, np.int32)
    return jax.device_get(jitted(params, meshes.put_batch(mesh, {"index": index, "y": Y[index]})))


@pytest.mark.parametrize("one", [request(guidance=0.5), request(ending="learned")])
def test_an_image_is_its_own(one):
    """Image i is that of the seed and i alone: in another order to the bit, in another batch and on eight devices to rounding."""
    whole = drawn(one, np.arange(16)).x_BHWC
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(drawn(one, order).x_BHWC, whole[order])
    size = np.abs(whole).max()
    np.testing.assert_allclose(drawn(one, np.arange(3, 8)).x_BHWC, whole[3:8], atol=1e-5 * size)
    mesh = meshes.make_mesh(meshes.MeshConfig(data=4, tensor=2) if one.guidance else meshes.MeshConfig())
    np.testing.assert_allclose(drawn(one, np.arange(16), mesh).x_BHWC, whole, atol=1e-5 * size)
    assert whole.shape == (16, *SHAPE.image) and len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("steps, ending", [(1, "noisy"), (STEPS, "score")])
def test_states_are_the_trajectory(steps, ending):
    """x and u at all T + 1 levels: one the transporter's map of the other, equal at noise; the image is level 0, or its denoising."""
    one = request(steps=steps, ending=ending)
    found, (c, params) = drawn(one, np.arange(4), with_states=True), weights("ntm")
    assert found.xs_BTHWC.shape == found.us_BTHWC.shape == (4, steps + 1, *SHAPE.image)
    np.testing.assert_array_equal(found.xs_BTHWC[:, -1], found.us_BTHWC[:, -1])
    t_BT = jnp.broadcast_to(sampling.levels(one)[None], (4, steps + 1))
    np.testing.assert_allclose(t_BT[0], [0.02, *chain.levels(steps, 0.459)], rtol=1e-6)
    cut = lambda x: jnp.stack([cutting.cut(x[:, k], SHAPE.patch) for k in range(steps + 1)], axis=1)
    model, xs_BTNd = networks.trajectory_model(c, SHAPE), cut(found.xs_BTHWC)
    us_BTNd, _ = jax.jit(lambda xs: likelihood.transported(model, params, xs, t_BT, jnp.full(4, 1 / steps)))(xs_BTNd)
    np.testing.assert_allclose(us_BTNd, cut(found.us_BTHWC), atol=1e-4)
    assert np.abs(found.xs_BTHWC[:, 0] - found.us_BTHWC[:, 0]).max() > 0.1
    if ending != "score":
        np.testing.assert_array_equal(found.x_BHWC, found.xs_BTHWC[:, 0])
        return
    condition = networks.Condition(jnp.asarray(Y[:4]), jnp.ones(4, bool))
    scored = jax.jit(lambda xs: sampling.scored(c, SHAPE, params, xs, t_BT, condition, 1.0))(xs_BTNd)
    np.testing.assert_allclose(cutting.join(scored, SHAPE.image, SHAPE.patch), found.x_BHWC, atol=1e-4 * np.abs(scored).max())


def test_guidance():
    """Weight 0 is no guidance to the bit; above it another image; without labels there is nothing to guide by."""
    plain = drawn(request(), np.arange(4)).x_BHWC
    np.testing.assert_array_equal(drawn(request(guidance=0.0), np.arange(4)).x_BHWC, plain)
    assert np.abs(drawn(request(guidance=1.0), np.arange(4)).x_BHWC - plain).max() > 1e-3


def test_the_last_step_alone_is_noise_free():
    """`noise_free` changes level 0 and no other."""
    noisy, free = (drawn(request(ending=ending), np.arange(4), with_states=True).us_BTHWC for ending in ("noisy", "noise_free"))
    np.testing.assert_allclose(noisy[:, 1:], free[:, 1:], atol=1e-5)
    assert (np.abs(noisy[:, 0] - free[:, 0]).max(axis=(1, 2, 3)) > 1e-3).all()


def test_requests_that_cannot_be():
    """An unknown ending, and a level above the first of the steps, which flow matching's even steps do not have."""
    with pytest.raises(ValueError, match="'sharp' is not one of noisy"):
        request(ending="sharp")
    with pytest.raises(ValueError, match="level 0.3 is not below"):
        request(steps=8, level=0.3)
    assert request("flow_matching", steps=1000).steps == 1000

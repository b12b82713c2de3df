"""The autoencoder learns digits, its latents are white, and they forgive the noise that it was trained with."""

import jax
import numpy as np
import pytest

from configs import ntm_base
from tsdfm_jax.config import image_settings
from tsdfm_jax.data import images
from tsdfm_jax.models import autoencoder
from tsdfm_jax.normalizing import autoencoder_training as training
from tsdfm_jax.runtime import mesh as meshes

STEPS = 150
SHAPE = (8, 8, 1)


def config(**changes):
    c = ntm_base.get_config()
    c.autoencoder.update(channels=3, halvings=1, width=16)
    c.autoencoder.optimiser.update(steps=STEPS, warmup=10, learning_rate=5e-3, ema=0.95)
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def digits():
    return images.read(images.ImagesConfig()).x_NHWC


@pytest.fixture(scope="module")
def trained(mesh, digits):
    """(its shape, the trained weights with their whitening)."""
    c = config()
    learner, rng = training.learner(c, SHAPE, mesh), np.random.default_rng(0)
    state = learner.create()
    for _ in range(STEPS):
        state, _ = learner.step(state, meshes.put_batch(mesh, {"x": digits[rng.integers(0, 1500, 64)]}))
    cfg = image_settings.autoencoder(c, SHAPE)
    return cfg, training.whitened(cfg, state.averaged, digits[:1500], mesh, 128)


def test_digits_come_back(trained, mesh, digits):
    """Held-out digits come back far nearer than their mean, and little further with noise on the latents."""
    cfg, params = trained
    x = digits[1500:]
    z = training.encode(cfg, params, x, mesh, 100)
    quality = lambda z: training.psnr(training.decode(cfg, params, z, mesh, 100), x)
    mean = training.psnr(np.broadcast_to(digits[:1500].mean(axis=0), x.shape), x)
    noise = np.random.default_rng(0).normal(size=z.shape)
    clean, noisy, drowned = (quality(z + level * noise) for level in (0, 0.15, 1.0))
    assert clean > mean + 7 and clean > noisy > clean - 1.5 and drowned < clean - 5, (mean, clean, noisy, drowned)


def test_latents_are_white(trained, mesh, digits):
    """Over the images of the whitening the channels have mean 0 and covariance 1; held-out ones nearly."""
    cfg, params = trained
    for rows, within in ((digits[:1500], 1e-3), (digits[1500:], 0.1)):
        z = training.encode(cfg, params, rows, mesh, 128).reshape(-1, 3)
        assert np.abs(z.mean(axis=0)).max() < within and np.abs(np.cov(z.T) - np.eye(3)).max() < 2 * within


def test_training_leaves_the_whitening_alone(mesh, digits):
    """The stored mean and matrix are no weights: an update does not change them."""
    learner = training.learner(config(), SHAPE, mesh)
    state = learner.create()
    state, _ = learner.step(state, meshes.put_batch(mesh, {"x": digits[:64]}))
    stored = state.averaged[autoencoder.WHITENING]
    assert np.array_equal(stored["mean"], np.zeros(3)) and np.array_equal(stored["matrix"], np.eye(3))


def test_nothing_depends_on_the_batch(trained, mesh, digits):
    """Latents are the same, however many images are encoded at once."""
    cfg, params = trained
    whole, parts = (training.encode(cfg, params, digits[:30], mesh, batch) for batch in (30, 7))
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_psnr_by_hand():
    """An error of 0.2 in images from -1 to 1 is 20 dB."""
    x = np.zeros((2, 4, 4, 1))
    assert training.psnr(x, x + 0.2) == pytest.approx(20.0) and training.psnr(x, x) > 100


def test_patches_must_divide_the_latents():
    """Latents of 7 × 7 cannot be cut into patches of 2."""
    with pytest.raises(ValueError, match=r"images\.patch=2 does not divide 7 × 7: take one of 1, 7"):
        image_settings.autoencoder(config(**{"autoencoder.halvings": 2}), (28, 28, 1))

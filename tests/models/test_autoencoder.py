"""The autoencoder: shapes for any size, whitening that whitens, the same gradients on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.models import autoencoder, convolution
from tsdfm_jax.runtime import mesh as meshes

CFG = autoencoder.AutoencoderConfig(size=8, image_channels=1, channels=3, halvings=1, width=8)


def images(count, size=8, channels=1):
    return jax.random.uniform(jax.random.key(1), (count, size, size, channels), minval=-1)


def params(cfg):
    return meshes.unbox(autoencoder.init(jax.random.key(0), cfg))


@pytest.mark.parametrize("size, channels, halvings, latent", [(28, 1, 2, 7), (28, 1, 3, 4), (9, 3, 2, 3), (8, 1, 1, 4)])
def test_any_size_comes_back(size, channels, halvings, latent):
    """Odd sizes are rounded up on the way down and cut on the way up."""
    cfg = autoencoder.AutoencoderConfig(size=size, image_channels=channels, channels=5, halvings=halvings, width=4)
    assert cfg.latent_shape == (latent, latent, 5)
    weights, x = params(cfg), images(2, size, channels)
    z = jax.eval_shape(lambda: autoencoder.encode(cfg, weights, x))
    y = jax.eval_shape(lambda: autoencoder.decode(cfg, weights, jnp.zeros((2, *cfg.latent_shape))))
    assert z.shape == (2, latent, latent, 5) and y.shape == x.shape and z.dtype == y.dtype == jnp.float32


def test_growing_undoes_space_to_depth():
    """Each group of four channels is a block of two by two pixels; an odd size loses the last row and column."""
    x = np.arange(7 * 7 * 2, dtype=np.float32).reshape(1, 7, 7, 2)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    packed = padded.reshape(1, 4, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 4, 8)
    assert np.array_equal(convolution.grow(jnp.asarray(packed), 7), x)


def test_a_batch_is_whitened():
    """Mean 0 and covariance 1 over all images and positions; a channel that is constant stays finite."""
    z = jax.random.normal(jax.random.key(0), (16, 4, 4, 3)) @ jnp.array([[3.0, 1, 0], [0, 2, 5], [0, 0, 1]]) + 7.0
    white = autoencoder.whiten(z, *autoencoder.batch_whitening(z)).reshape(-1, 3)
    assert np.allclose(white.mean(axis=0), 0, atol=1e-4) and np.allclose(np.cov(white.T, bias=True), np.eye(3), atol=2e-3)
    flat = z.at[..., 1].set(2.0)
    assert np.isfinite(autoencoder.whiten(flat, *autoencoder.batch_whitening(flat))).all()


def test_an_image_does_not_depend_on_its_batch():
    """Latents and decoded images of one image are those that it has among others."""
    weights, x = params(CFG), images(4)
    code = jax.jit(lambda x: autoencoder.decode(CFG, weights, autoencoder.encode(CFG, weights, x)))
    assert np.allclose(code(x)[2], code(x[2:3])[0], atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_gradients_are_the_same_on_a_mesh(shape):
    """Loss and gradients over eight devices are those of one, also where weights and channels are split."""
    from tsdfm_jax.normalizing import autoencoder_training as training

    def gradient(mesh):
        weights = autoencoder.init(jax.random.key(0), CFG)
        weights = jax.device_put(meshes.unbox(weights), meshes.shardings(mesh, weights))
        loss = lambda p, x: training.noisy_loss(CFG, 0.15, jax.random.key(2), p, {"x": x})[0]
        return meshes.jit(mesh, jax.value_and_grad(loss))(weights, meshes.put_whole(mesh, np.asarray(images(16))))

    make = lambda sizes, devices: meshes.make_mesh(meshes.MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]), devices)
    one, many = gradient(make((1, 1, 1), jax.devices()[:1])), gradient(make(shape, jax.devices()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3), one, many)


@pytest.mark.parametrize("keys, says", [
    ({"halvings": 4}, "autoencoder.halvings 4 is too many for images of 8 pixels: take 3 or fewer"),
    ({"channels": 0}, "autoencoder.channels 0 must be at least 1"),
    ({"dtype": "float16"}, "model.dtype 'float16'"),
])  # fmt: skip
def test_shapes_that_cannot_be(keys, says):
    """A shape that cannot be is refused with the key and what would do."""
    with pytest.raises(ValueError, match=says):
        autoencoder.AutoencoderConfig(**{"size": 8, "image_channels": 1, "channels": 2, **keys})
    autoencoder.AutoencoderConfig(size=8, image_channels=1, channels=2, halvings=3)

"""Training of the autoencoder by squared error with noise on its whitened latents; its whitening; its use on many images.

Letters in names: N images, H and W height and width, C channels, B batch, h, w and c those of a latent.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import image_settings, settings
from tsdfm_jax.models import autoencoder
from tsdfm_jax.runtime import checkpoint, mesh as meshes, pipeline, state as states


def noisy_loss(cfg, noise, key, params, batch):
    """The mean squared error of images decoded from latents, whitened by this batch, with noise of this deviation: (loss, {})."""
    x_BHWC = batch["x"]
    z_Bhwc = autoencoder.features(cfg, params, x_BHWC)
    z_Bhwc = autoencoder.whiten(z_Bhwc, *autoencoder.batch_whitening(z_Bhwc))
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(z_Bhwc)))
    noise_Bhwc = jax.vmap(lambda key: jax.random.normal(key, cfg.latent_shape))(keys_B)
    return jnp.square(autoencoder.reconstruct(cfg, params, z_Bhwc + noise * noise_Bhwc) - x_BHWC).mean(), {}


def learner(config, shape, mesh):
    """The state.Learner of the autoencoder of images of `shape` [H, W, C]; its batches are {"x": x_BHWC, …}."""
    cfg, seed = image_settings.autoencoder(config, shape), config.seed
    loss = functools.partial(noisy_loss, cfg, config.autoencoder.noise)
    init = lambda seed: autoencoder.init(jax.random.key(seed), cfg)
    return states.learner(init, loss, settings.optimiser(config.autoencoder), mesh, seed, given=(meshes.seed_word(seed),))


def _mapped(cfg, function, params, x_NHWC, mesh, batch):
    """`function(cfg, params, x)` of all images or latents, `batch` at once."""
    split = meshes.batch_sharding(mesh)
    jitted = meshes.jit(mesh, functools.partial(function, cfg), in_shardings=(None, split), out_shardings=split)
    return pipeline.mapped(mesh, functools.partial(jitted, params), np.asarray(x_NHWC, np.float32), batch, "autoencoder")


def whitened(cfg, params, x_NHWC, mesh, batch):
    """The weights with the whitening of these images, over all of them and all positions, computed in float64."""
    z_Nhwc = _mapped(cfg, autoencoder.features, params, x_NHWC, mesh, batch)
    z_Mc = z_Nhwc.reshape(-1, cfg.channels).astype(np.float64)
    covariance_cc = np.atleast_2d(np.cov(z_Mc, rowvar=False, bias=True)) + autoencoder.RIDGE * np.eye(cfg.channels)
    matrix_cc = np.linalg.inv(np.linalg.cholesky(covariance_cc))
    place = lambda array: jax.device_put(np.asarray(array, np.float32), meshes.replicated(mesh))
    return params | {autoencoder.WHITENING: {"mean": place(z_Mc.mean(axis=0)), "matrix": place(matrix_cc)}}


def load(config, directory, shape, mesh):
    """The autoencoder of images of `shape` that stage `autoencoder` left in a directory: (its shape, weights, content hash)."""
    cfg = image_settings.autoencoder(config, shape)
    template = meshes.abstract(mesh, lambda: autoencoder.init(jax.random.key(0), cfg))
    params, meta = checkpoint.load_params(directory / "model", template)
    return cfg, params, meta["hash"]


def encode(cfg, params, x_NHWC, mesh, batch):
    """Whitened latents of images, numpy [N, h, w, c]."""
    return _mapped(cfg, autoencoder.encode, params, x_NHWC, mesh, batch)


def decode(cfg, params, z_Nhwc, mesh, batch):
    """Images in [-1, 1] of whitened latents, numpy [N, H, W, C]."""
    return _mapped(cfg, autoencoder.decode, params, z_Nhwc, mesh, batch)


def psnr(a_NHWC, b_NHWC):
    """Peak signal-to-noise ratio in dB of images in [-1, 1]: 10 log10(2² / mean squared error), over all of them."""
    error = np.square(a_NHWC.astype(np.float64) - b_NHWC).mean()
    return float(10 * np.log10(4 / max(error, 1e-12)))

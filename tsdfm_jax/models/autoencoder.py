"""A small convolutional autoencoder with whitened latents: x_BHWC in [-1, 1] -> z_Bhwc -> x_BHWC.

Letters in names: B batch, H and W of the image, h and w of the latent, C channels of the image, c of the latent.

Whitened: over the training images and all positions the c channels have mean 0 and covariance 1. The decoder reads whitened
latents only. While it is trained, each batch is whitened by its own mean and covariance, and noise is added; afterwards mean and
matrix of the whole training set are stored beside the weights. Unit covariance with noise makes a noisy channel of fixed power, so
the encoder is pressed to use all of its channels alike. [D]
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tsdfm_jax.models import convolution

RIDGE = 1e-4  # of a batch's covariance, so that a channel without variance has a finite inverse
WHITENING = "whitening"  # the part of the parameters that is not trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of an autoencoder.

    Attributes:
      size: height and width of the images, in pixels.
      image_channels: channels of the images, 1 or 3.
      channels: channels of a latent, c.
      halvings: times that height and width are halved, rounded up.
      width: channels of the first convolution; each further halving doubles them.
      dtype: compute type, `float32` or `bfloat16`; parameters, norms and latents stay float32.
    """

    size: int
    image_channels: int
    channels: int
    halvings: int = 2
    width: int = 32
    dtype: str = "float32"

    def __post_init__(self):
        convolution.check("autoencoder", self.dtype, channels=self.channels, halvings=self.halvings, width=self.width)
        if self.sizes[-2] < 2:
            raise ValueError(
                f"autoencoder.halvings {self.halvings} is too many for images of {self.size} pixels: take "
                f"{max(1, (self.size - 1).bit_length())} or fewer"
            )

    @property
    def sizes(self):
        """Height and width of the image and after each halving: (28, 14, 7)."""
        sizes = [self.size]
        for _ in range(self.halvings):
            sizes.append(-(-sizes[-1] // 2))
        return tuple(sizes)

    @property
    def latent_shape(self):
        """(h, w, c)."""
        return (self.sizes[-1], self.sizes[-1], self.channels)


class Encoder(nn.Module):
    """x_BHWC -> z_Bhwc, not yet whitened, float32."""

    cfg: AutoencoderConfig

    @nn.compact
    def __call__(self, x_BHWC):
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        x = x_BHWC.astype(dtype)
        for k in range(cfg.halvings):
            x = convolution.conv(cfg.width << k, name=f"down{k}", dtype=dtype, size=4 if k == 0 else 3, stride=2)(x)
            x = convolution.Residual(cfg.dtype, name=f"block{k}")(convolution.pin(x))
        x = nn.silu(convolution.norm(x.shape[-1], "norm_final")(x)).astype(dtype)
        return convolution.pin(convolution.conv(cfg.channels, name="out", dtype=dtype)(x).astype(jnp.float32))


class Decoder(nn.Module):
    """Whitened z_Bhwc -> x_BHWC, float32, not cut to [-1, 1]."""

    cfg: AutoencoderConfig

    @nn.compact
    def __call__(self, z_Bhwc):
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        x = convolution.conv(cfg.width << (cfg.halvings - 1), name="in", dtype=dtype)(z_Bhwc.astype(dtype))
        for k in reversed(range(cfg.halvings)):
            x = convolution.Residual(cfg.dtype, name=f"block{k}")(convolution.pin(x))
            if k == 0:
                x = nn.silu(convolution.norm(x.shape[-1], "norm_final")(x)).astype(dtype)
            channels = cfg.width << (k - 1) if k else cfg.image_channels
            x = convolution.conv(4 * channels, name=f"up{k}", dtype=dtype)(x.astype(dtype))
            x = convolution.grow(x, cfg.sizes[k])
        return convolution.pin(x.astype(jnp.float32))


def init(key, cfg):
    """Initial parameters: encoder and decoder, boxed with their logical axes, and a whitening that changes nothing."""
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": Encoder(cfg).init(encoder_key, jnp.zeros((1, cfg.size, cfg.size, cfg.image_channels)))["params"],
        "decoder": Decoder(cfg).init(decoder_key, jnp.zeros((1, *cfg.latent_shape)))["params"],
        WHITENING: {"mean": jnp.zeros(cfg.channels), "matrix": jnp.eye(cfg.channels)},
    }


def features(cfg, params, x_BHWC):
    """The encoder's output before whitening, z_Bhwc."""
    return Encoder(cfg).apply({"params": params["encoder"]}, x_BHWC)


def encode(cfg, params, x_BHWC):
    """Whitened latents z_Bhwc of images in [-1, 1]."""
    return whiten(features(cfg, params, x_BHWC), params[WHITENING]["mean"], params[WHITENING]["matrix"])


def decode(cfg, params, z_Bhwc):
    """Images of whitened latents, cut to [-1, 1]."""
    return jnp.clip(reconstruct(cfg, params, z_Bhwc), -1.0, 1.0)


def reconstruct(cfg, params, z_Bhwc):
    """Images of whitened latents as the decoder gives them."""
    return Decoder(cfg).apply({"params": params["decoder"]}, z_Bhwc)


def whiten(z_Bhwc, mean_c, matrix_cc):
    """matrix · (z - mean) at every position, in float32."""
    return jnp.einsum("bhwc,dc->bhwd", z_Bhwc - mean_c[None, None, None], matrix_cc, precision="highest")


def batch_whitening(z_Bhwc):
    """(mean_c, matrix_cc) that whiten a batch over all of its images and positions; see `whitening`."""
    mean_c = z_Bhwc.mean(axis=(0, 1, 2))
    centred = z_Bhwc - mean_c[None, None, None]
    count = z_Bhwc.size // z_Bhwc.shape[-1]
    covariance_cc = jnp.einsum("bhwc,bhwd->cd", centred, centred, precision="highest") / count
    return mean_c, whitening(covariance_cc)


def whitening(covariance_cc):
    """The lower triangular matrix W with W · covariance · Wᵀ = 1, by Cholesky's factor: unique, so that it cannot turn."""
    c = len(covariance_cc)
    factor_cc = jnp.linalg.cholesky(covariance_cc + RIDGE * jnp.eye(c))
    return jax.scipy.linalg.solve_triangular(factor_cc, jnp.eye(c), lower=True)

"""A small convolutional classifier of images, which gives features too: the judge of sampled images.

Letters in names: B batch, H and W height and width, C channels, K classes, F features.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from tsdfm_jax.models import convolution

SMALLEST = 4  # height and width at which halving ends
SMALL = 8  # images up to this size are not halved by the first convolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Shape of a classifier.

    Attributes:
      size: height and width of the images, in pixels.
      image_channels: channels of the images.
      classes: K.
      width: channels of the first convolution; each halving doubles them, to 4 · width at most.
      dtype: compute type, `float32` or `bfloat16`; parameters, norms, features and logits stay float32.
    """

    size: int
    image_channels: int
    classes: int
    width: int = 32
    dtype: str = "float32"

    def __post_init__(self):
        convolution.check("evaluate.classifier", self.dtype, width=self.width)
        if self.classes < 2:
            raise ValueError(f"{self.classes} classes give a classifier nothing to tell apart: it needs 2 or more")

    @property
    def first_stride(self):
        """What the first convolution divides height and width by."""
        return 1 if self.size <= SMALL else 2

    @property
    def halvings(self):
        """Times that height and width are halved after the first convolution, until they are SMALLEST or less."""
        size, count = -(-self.size // self.first_stride), 0
        while size > SMALLEST:
            size, count = -(-size // 2), count + 1
        return count

    @property
    def features(self):
        """F, the number of features."""
        return self.width << min(self.halvings, 2)


class Classifier(nn.Module):
    """Images in [-1, 1] -> (logits_BK, features_BF), float32; the features are those before the last layer.

    The features are means over all positions after the last norm and SiLU, and the logits are linear in them.
    """

    cfg: ClassifierConfig

    @nn.compact
    def __call__(self, x_BHWC):
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        size = 3 if cfg.first_stride == 1 else 4
        x = convolution.conv(cfg.width, name="in", dtype=dtype, size=size, stride=cfg.first_stride)(x_BHWC.astype(dtype))
        for k in range(1, cfg.halvings + 1):
            x = convolution.conv(cfg.width << min(k, 2), name=f"down{k}", dtype=dtype, stride=2)(nn.silu(x))
            x = convolution.Residual(cfg.dtype, name=f"block{k}")(convolution.pin(x)).astype(dtype)
        features_BF = nn.silu(convolution.norm(x.shape[-1], "norm_final")(x)).mean(axis=(1, 2))
        head = nn.Dense(
            cfg.classes,
            dtype=jnp.float32,
            name="head",
            kernel_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed", "features")),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("features",)),
        )
        return head(features_BF), features_BF


def init(key, cfg):
    """Initial parameters, boxed with their logical axes."""
    return Classifier(cfg).init(key, jnp.zeros((1, cfg.size, cfg.size, cfg.image_channels)))["params"]


def apply(cfg, params, x_BHWC):
    """(logits_BK, features_BF) of images in [-1, 1]."""
    return Classifier(cfg).apply({"params": params}, x_BHWC)

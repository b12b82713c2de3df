"""Layers of the small convolutional networks, autoencoder and classifier: convolution, norm, residual block, resampling.

Letters in names: B batch, H and W height and width of an image, h and w those of a smaller grid, C and c channels.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

GROUPS = 8  # of a group norm, where the channels allow as many


def check(name, dtype, **numbers):
    """Raise ValueError, one line with the key below `name`, for a number below 1 and for an unknown compute type."""
    for key, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}.{key} {value} must be at least 1")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype '{dtype}' is not one of float32, bfloat16")


def pin(x_BHWC):
    """Keep an image split over the batch alone under a mesh: without this XLA may place it badly."""
    return nn.with_logical_constraint(x_BHWC, ("batch", None, None, None))


def conv(channels, *, name, dtype, size=3, stride=1, kernel_init=nn.initializers.lecun_normal()):
    """A convolution that keeps height and width, or divides them by `stride`, rounded up; its kernel has logical axes."""
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding="SAME",
        dtype=dtype,
        name=name,
        kernel_init=nn.with_logical_partitioning(kernel_init, (None, None, "embed", "features")),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("features",)),
    )


def norm(channels, name):
    """Group norm of each image by itself, in float32 for every compute type."""
    return nn.GroupNorm(
        num_groups=math.gcd(GROUPS, channels),
        epsilon=1e-5,
        dtype=jnp.float32,
        name=name,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("features",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("features",)),
    )


class Residual(nn.Module):
    """x + f(x), f two times norm, SiLU and convolution; the last convolution is initialised to zero."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        channels, dtype = x_BHWC.shape[-1], jnp.dtype(self.dtype)
        y_BHWC = nn.silu(norm(channels, "norm1")(x_BHWC)).astype(dtype)
        y_BHWC = conv(channels, name="conv1", dtype=dtype)(y_BHWC)
        y_BHWC = nn.silu(norm(channels, "norm2")(y_BHWC)).astype(dtype)
        y_BHWC = conv(channels, name="conv2", dtype=dtype, kernel_init=nn.initializers.zeros)(y_BHWC)
        return pin((x_BHWC + y_BHWC).astype(jnp.float32))


def grow(x_Bhwc, size):
    """Depth to space, twice as high and wide with a quarter of the channels, cut to `size`: [B, h, w, 4c] -> [B, size, size, c]."""
    b, h, w, c = x_Bhwc.shape
    x = x_Bhwc.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)[:, :size, :size]

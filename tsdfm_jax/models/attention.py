"""Attention over whole windows: by XLA, by cuDNN on an NVIDIA GPU, or by splash attention, JAX's kernel for TPU.

G is the number of key and value heads, which divides H; d is the head size.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

ROTARY_BASE = 10_000.0
TILE = 128  # positions: splash attention needs windows of a multiple of this length
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}
LARGEST_HEAD = {True: 256, False: 128}  # head size that cuDNN supports: on Hopper and later (True), or before (False)


class Device(NamedTuple):
    """What a choice depends on: `platform` is cpu, gpu or tpu; `capability` is that of an NVIDIA GPU, such as (9, 0), or None."""

    platform: str
    capability: tuple[int, int] | None = None


def rotate(x_BLHd, freq_d=None):
    """Rotary position embedding of the whole head; element i of both halves is a pair, turned by `freq_d[i]` radians a position."""
    half = x_BLHd.shape[-1] // 2
    if freq_d is None:
        freq_d = ROTARY_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return turn(x_BLHd, jnp.arange(x_BLHd.shape[1], dtype=jnp.float32)[:, None] * freq_d[None, :])


def grid_angles(rows, columns, half):
    """Angles of a rotary embedding over a grid, in row-major order: half of the pairs turn by row, half by column, [N, half]."""
    freq_d = ROTARY_BASE ** (-jnp.arange(half // 2, dtype=jnp.float32) / (half // 2))
    row_N, column_N = jnp.divmod(jnp.arange(rows * columns), columns)
    return jnp.concatenate([row_N[:, None] * freq_d[None], column_N[:, None] * freq_d[None]], axis=-1)


def turn(x_BLHd, angle_Ld):
    """Turn the pairs (i, i + d/2) of every head by the angles of its position."""
    cos, sin = jnp.cos(angle_Ld)[None, :, None, :], jnp.sin(angle_Ld)[None, :, None, :]
    a, b = jnp.split(x_BLHd.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLHd.dtype)


def xla(q_BLHd, k_BLGd, v_BLGd, causal):
    """Matrix products and a softmax, which is float32 for every input type, with scores of [B, H, L, L] in memory."""
    return jax.nn.dot_product_attention(q_BLHd, k_BLGd, v_BLGd, is_causal=causal, implementation="xla")


def cudnn(q_BLHd, k_BLGd, v_BLGd, causal):
    """cuDNN's fused attention: no scores in memory, forward or backward."""
    return jax.nn.dot_product_attention(q_BLHd, k_BLGd, v_BLGd, is_causal=causal, implementation="cudnn")


def splash(q_BLHd, k_BLGd, v_BLGd, causal, interpret=False):
    """Splash attention, a Pallas kernel: no scores in memory, forward or backward.

    L must be a multiple of TILE. `interpret` runs it without a TPU, slowly.
    """
    # A late import: Pallas is slow to import, and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask as masks

    length, heads, size = q_BLHd.shape[1:]
    mask = masks.CausalMask((length, length)) if causal else masks.FullMask((length, length))
    tile = next(tile for tile in (512, 384, 256, TILE) if length % tile == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    kernel = splash_attention_kernel.make_splash_mha(
        mask=masks.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(**{f"block_{name}": tile for name in names}),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    scaled_BLHd = (q_BLHd.astype(jnp.float32) * size**-0.5).astype(q_BLHd.dtype)  # the kernel does not scale
    y_BHLd = jax.vmap(kernel)(*(jnp.swapaxes(x, 1, 2) for x in (scaled_BLHd, k_BLGd, v_BLGd)))
    return jnp.swapaxes(y_BHLd, 1, 2)


def by_device(compute):
    """`compute(q_BLHd, k_BLGd, v_BLGd)` on each device's own windows and heads, split as the current mesh (if any) splits them.

    XLA cannot split a kernel. JAX can split cuDNN's, but under a vmap it merges candidates and batch into one axis, and data that
    is split over devices would have to move.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def split(q_BLHd, k_BLGd, v_BLGd):
        if mesh.empty:
            return compute(q_BLHd, k_BLGd, v_BLGd)
        spec = PartitionSpec(_axes(mesh, "batch", q_BLHd.shape[0]), None, _axes(mesh, "heads", k_BLGd.shape[2]), None)
        return jax.shard_map(compute, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q_BLHd, k_BLGd, v_BLGd)

    return split


def _axes(mesh, name, size):
    """The mesh axes that split a logical axis; None where they do not divide its size."""
    (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
    axes = (axes,) if isinstance(axes, str) else axes or ()
    return None if size % math.prod(mesh.shape[axis] for axis in axes) else axes


IMPLEMENTATIONS = {"xla": xla, "cudnn": cudnn, "splash": splash}
CHOICES = ("auto", *IMPLEMENTATIONS)


def device():
    """The `Device` of the current mesh, which may be of another machine; without a mesh, JAX's default device."""
    # A program compiled ahead of time is traced on a machine without its devices, and must not start that machine's own.
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    return of_platform(jax.default_backend() if abstract is None else abstract.platform)


def of_platform(platform):
    """The `Device` of a platform on this machine."""
    if platform != "gpu":
        return Device(platform)
    gpu = jax.local_devices(backend="gpu")[0]
    cuda = "cuda" in gpu.client.platform_version
    return Device(platform, tuple(int(part) for part in gpu.compute_capability.split(".")) if cuda else None)


def network_lacks(name, dtype, head_size):
    """Why a network of this compute type and head size cannot use an implementation; None where it can."""
    if name in PLATFORMS and dtype != "bfloat16":
        return f"computes in bfloat16, not in {dtype}: set model.dtype=bfloat16"
    if name == "cudnn" and (head_size % 8 or head_size > LARGEST_HEAD[True]):
        return f"takes heads whose size is a multiple of 8 and at most {LARGEST_HEAD[True]}, not {head_size}: change the heads"
    return None


def device_lacks(name, device, head_size=8):
    """Why a `Device` cannot run an implementation on heads of this size; None where it can."""
    if name in PLATFORMS and device.platform != PLATFORMS[name]:
        return f"needs a {PLATFORMS[name].upper()}, and the devices are {device.platform}: take such devices"
    if name == "cudnn" and (device.capability or (0, 0)) < (8, 0):
        return f"needs an NVIDIA GPU of compute capability 8.0 or more, not {device.capability}: take another GPU"
    if name == "cudnn" and head_size > (largest := LARGEST_HEAD[device.capability >= (9, 0)]):
        return f"takes heads of at most {largest} on this GPU, not {head_size}: change the heads"
    return None


def check(name, reason=None):
    """Raise ValueError for a name that is not in CHOICES, or with the `reason` why this choice is not possible."""
    if name not in CHOICES:
        raise ValueError(f"model.attention '{name}' is not one of {', '.join(CHOICES)}")
    if reason:
        raise ValueError(f"model.attention '{name}' {reason}, or set model.attention=auto")


def check_devices(name, platform, length):
    """Raise ValueError for a choice that the devices of a platform cannot run, or that does not fit windows of this length."""
    check(name, device_lacks(name, of_platform(platform)))
    if name == "splash" and length % TILE:
        check(name, f"takes windows of a multiple of {TILE} tokens, not of {length}: change data.length")


def resolve(name, device, dtype, head_size, length):
    """The implementation for a choice: `auto` is the first of cudnn, splash and xla that the device and the network allow.

    For windows that are not a multiple of TILE, xla replaces splash. Raises ValueError for a choice that is not possible.
    """
    lacks = lambda option: network_lacks(option, dtype, head_size) or device_lacks(option, device, head_size)
    if name == "auto":
        name = next(option for option in ("cudnn", "splash", "xla") if not lacks(option))
    check(name, lacks(name))
    return "xla" if name == "splash" and length % TILE else name


def attend(name, q_BLHd, k_BLGd, v_BLGd, causal=False):
    """softmax(q k^T / sqrt(d)) v of every head over a whole window, or with `causal` over the positions up to each: [B, L, H, d].

    `name` is one of CHOICES. Raises ValueError, one line, for a choice that these devices or this network cannot use.
    """
    implementation = resolve(name, device(), q_BLHd.dtype.name, q_BLHd.shape[-1], q_BLHd.shape[1])
    compute = functools.partial(IMPLEMENTATIONS[implementation], causal=causal)
    return (by_device(compute) if implementation in PLATFORMS else compute)(q_BLHd, k_BLGd, v_BLGd)

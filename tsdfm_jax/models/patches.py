"""Transformers over the patches of an image: with full attention, or causal, blind to their own patch, and with a cache.

Letters: N patches in row-major order, d numbers a patch, M times that a network is told, G heads of keys and values.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tsdfm_jax.models import attention, transformer

TIME_SCALE = 100.0  # radians of the fastest feature of a time in [0, 1]
IN_DTYPE = ("qw", "kw", "vw", "attn_out", "mlp_in", "mlp_out", "mean", "log_scale", "mix")  # layers that compute in cfg.dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """Shape of one network.

    Attributes:
      rows, columns: the grid of patches; N is their product.
      features: d, numbers of a patch, in and out.
      blocks, width, heads, cond_width, mlp_ratio, dtype, remat, unroll, attention: as in transformer.TransformerConfig.
      kv_heads: G, heads of keys and values; 0 is H.
      classes: number of classes, 0 for none.
      vector: width of a conditioning vector, 0 for none; with 0 classes and 0 here the network takes no condition.
      times: M. Those after the first start without effect, so that a network of one time can be continued with more.
      causal: whether output n depends on patches before n only.
      scale: whether there is a second output beside the first.
      mix: whether there is a third, of d (d - 1) / 2 numbers a patch.
    """

    rows: int
    columns: int
    features: int
    blocks: int
    width: int
    heads: int
    cond_width: int
    kv_heads: int = 0
    mlp_ratio: int = 4
    classes: int = 0
    vector: int = 0
    times: int = 1
    causal: bool = False
    scale: bool = False
    mix: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"

    def __post_init__(self):
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"model.width {self.width} does not split into {self.heads} heads of a size divisible by 4, half of it for rows and "
                f"half for columns: change model.width or model.heads"
            )
        if self.heads % self.groups:
            raise ValueError(f"model.kv_heads {self.kv_heads} does not divide model.heads {self.heads}: change one of them")
        if self.remat not in transformer.REMAT:
            raise ValueError(f"model.remat '{self.remat}' is not one of {', '.join(transformer.REMAT)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype '{self.dtype}' is not one of float32, bfloat16")
        if self.classes and self.vector:
            raise ValueError(f"a network takes classes ({self.classes}) or vectors ({self.vector}), not both")
        attention.check(self.attention, attention.network_lacks(self.attention, self.dtype, self.width // self.heads))

    @property
    def patches(self):
        """N."""
        return self.rows * self.columns

    @property
    def groups(self):
        """G."""
        return self.kv_heads or self.heads


class Cache(NamedTuple):
    """Keys and values of every block at the patches read so far: [blocks, B, N, G, D/H] in the compute type."""

    k: jax.Array
    v: jax.Array


def empty_cache(cfg, batch):
    """The Cache before the first patch."""
    zeros = jnp.zeros((cfg.blocks, batch, cfg.patches, cfg.groups, cfg.width // cfg.heads), jnp.dtype(cfg.dtype))
    return Cache(zeros, zeros)


def _attend(cfg, q_BNHd, k_BNGd, v_BNGd, cache, place):
    """Attention among all patches or, with a block's cache, of the patch at `place` to all up to it: (y, cache)."""
    half = cfg.width // cfg.heads // 2
    angle_Nd = attention.grid_angles(cfg.rows, cfg.columns, half)
    if cache is None:
        q_BNHd, k_BNGd = attention.turn(q_BNHd, angle_Nd), attention.turn(k_BNGd, angle_Nd)
        return attention.attend(cfg.attention, q_BNHd, k_BNGd, v_BNGd, causal=cfg.causal), None
    angle_1d = jax.lax.dynamic_slice_in_dim(angle_Nd, place, 1)
    new = attention.turn(k_BNGd, angle_1d), v_BNGd
    k_BNGd, v_BNGd = (jax.lax.dynamic_update_slice(old, part, (0, place, 0, 0)) for old, part in zip(cache, new))
    read_N = jnp.arange(cfg.patches) <= place
    y = jax.nn.dot_product_attention(attention.turn(q_BNHd, angle_1d), k_BNGd, v_BNGd, mask=read_N[None, None, None])
    return y, Cache(k_BNGd, v_BNGd)


class PatchBlock(nn.Module):
    """Attention and MLP, each with adaLN: shift, scale and gate from the conditioning; its gates are born closed."""

    cfg: PatchConfig

    @nn.compact
    def __call__(self, x_BND, given, deterministic):
        cfg, dtype, place = self.cfg, jnp.dtype(self.cfg.dtype), given["place"]
        b, n, d = x_BND.shape
        size, zeros = d // cfg.heads, nn.initializers.zeros
        dense = transformer.dense
        ada = dense(6 * d, "cond", "features", name="adaLN_modulation", dtype=jnp.float32, kernel_init=zeros)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(ada(given["cond"]), 6, axis=-1)

        y_BND = transformer.modulate(transformer.layer_norm("norm1")(x_BND), shift_a, scale_a).astype(dtype)
        q, k, v = (
            dense(heads * size, "embed", "heads", name=name, dtype=dtype, use_bias=False)(y_BND).reshape(b, n, heads, size)
            for name, heads in (("qw", cfg.heads), ("kw", cfg.groups), ("vw", cfg.groups))
        )
        y_BNHd, cache = _attend(cfg, q, k, v, given["cache"], place)
        y_BND = dense(d, "heads", "embed", name="attn_out", dtype=dtype, use_bias=False)(y_BNHd.reshape(b, n, d))
        x_BND = x_BND + gate_a[:, None] * y_BND

        y_BND = transformer.modulate(transformer.layer_norm("norm2")(x_BND), shift_m, scale_m).astype(dtype)
        y_BND = dense(cfg.mlp_ratio * d, "embed", "mlp", name="mlp_in", dtype=dtype)(y_BND)
        y_BND = dense(d, "mlp", "embed", name="mlp_out", dtype=dtype)(nn.gelu(y_BND, approximate=True))
        return transformer.pin((x_BND + gate_m[:, None] * y_BND).astype(jnp.float32)), cache


class Conditioning(nn.Module):
    """The vector that modulates every block: of the times, and of the class or vector where it is kept."""

    cfg: PatchConfig

    @nn.compact
    def __call__(self, time_BM, y, keep_B):
        cfg, normal = self.cfg, nn.initializers.normal(1.0)
        zeros, part = nn.initializers.zeros, nn.with_logical_partitioning
        cond_BC = jnp.zeros((time_BM.shape[0], cfg.cond_width), jnp.float32)
        for m in range(cfg.times):
            out_init = {} if m == 0 else {"out_init": zeros}
            embed = transformer.TimeMLP(cfg.cond_width, name=f"time_{m}", **out_init)
            cond_BC = cond_BC + embed(TIME_SCALE * time_BM[:, m])
        if cfg.classes or cfg.vector:
            null_C = self.param("null", part(normal, ("cond",)), (cfg.cond_width,))
            given_BC = self._embedded(y, time_BM.shape[0], part, normal)
            keep_B = jnp.full(time_BM.shape[:1], y is not None) if keep_B is None else keep_B
            cond_BC = cond_BC + jnp.where(keep_B[:, None], given_BC, null_C[None])
        return nn.silu(cond_BC)

    def _embedded(self, y, batch, part, normal):
        cfg = self.cfg
        if cfg.vector:
            y_BV = jnp.zeros((batch, cfg.vector)) if y is None else y
            return transformer.dense(cfg.cond_width, "features", "cond", name="vector", dtype=jnp.float32)(y_BV)
        table = nn.Embed(cfg.classes, cfg.cond_width, name="label", embedding_init=part(normal, (None, "cond")))
        return table(jnp.zeros(batch, jnp.int32) if y is None else y)


class PatchTransformer(nn.Module):
    """`apply({"params": p}, x_BNd, time_BM, y, keep_B)` -> float32 out_BNd, with `cfg.scale` and `cfg.mix` a tuple, all born zero.

    `y` is int32 [B], float32 [B, V] or None; `keep_B` says for which rows it counts, None for all. With a `cache`, x_BNd is the
    one patch before patch `place`, [B, 1, d] (ignored before patch 0), and the new cache comes last.
    """

    cfg: PatchConfig

    @nn.compact
    def __call__(self, x_BNd, time_BM, y=None, keep_B=None, cache=None, place=0):
        cfg, dtype, zeros = self.cfg, jnp.dtype(self.cfg.dtype), nn.initializers.zeros
        cond_BC = Conditioning(cfg, name="conditioning")(time_BM, y, keep_B)
        if cfg.causal and cache is None:  # patch n is told of the patch before it
            x_BNd = jnp.concatenate([jnp.zeros_like(x_BNd[:, :1]), x_BNd[:, :-1]], axis=1)
        elif cfg.causal:
            x_BNd = jnp.where(place > 0, x_BNd, 0.0)
        position_init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        position_ND = self.param("position", position_init, (cfg.patches, cfg.width))
        if cache is not None:
            position_ND = jax.lax.dynamic_slice_in_dim(position_ND, place, 1)
        x_BND = transformer.dense(cfg.width, "features", "embed", name="patch_in", dtype=jnp.float32)(x_BNd)
        x_BND = transformer.pin(x_BND + position_ND[None])
        given = {"cond": cond_BC, "cache": cache, "place": place}
        axes = {"cond": nn.broadcast, "cache": 0, "place": nn.broadcast}
        x_BND, cache = transformer.stack(PatchBlock, cfg, argument_axis=axes, name="blocks")(x_BND, given, True)

        ada = transformer.dense(2 * cfg.width, "cond", "features", name="adaLN_modulation", dtype=jnp.float32, kernel_init=zeros)
        shift_BD, scale_BD = jnp.split(ada(cond_BC), 2, axis=-1)
        h_BND = transformer.modulate(transformer.layer_norm("norm_final")(x_BND), shift_BD, scale_BD).astype(dtype)
        sizes = {"mean": cfg.features, "log_scale": cfg.features * cfg.scale}
        sizes |= {"mix": cfg.features * (cfg.features - 1) // 2 * cfg.mix}
        head = lambda name: transformer.dense(sizes[name], "embed", "features", name=name, dtype=dtype, kernel_init=zeros)
        outs = tuple(head(name)(h_BND).astype(jnp.float32) for name in sizes if sizes[name])
        outs = outs if cache is None else (*outs, cache)
        return outs if len(outs) > 1 else outs[0]


def init(key, cfg):
    """Initial parameters, boxed with their logical axes."""
    x_BNd, time_BM = jnp.zeros((1, cfg.patches, cfg.features)), jnp.zeros((1, cfg.times))
    return PatchTransformer(cfg).init(key, x_BNd, time_BM)["params"]


def in_dtype(dtype, params):
    """Weights of networks with the matrices of IN_DTYPE in their compute type already: outputs keep their bits."""

    def cast(path, leaf):
        names = [key.key for key in path]
        return leaf.astype(dtype) if names[-1] == "kernel" and names[-2] in IN_DTYPE else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def apply(cfg, params, x_BNd, time_BM, y=None, keep_B=None, cache=None, place=0):
    """The network's output or outputs; see PatchTransformer."""
    return PatchTransformer(cfg).apply({"params": params}, x_BNd, time_BM, y, keep_B, cache, place)

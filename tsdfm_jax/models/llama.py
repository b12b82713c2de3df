"""Llama's architecture, for judges: a causal transformer with RMSNorm, grouped-query attention, SwiGLU, rotary positions."""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.models import attention, transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's scaling of rotary positions: waves longer than `original / low` become longer by `factor`.

    Waves shorter than `original / high` stay, and those between are interpolated. `original` counts positions.
    """

    factor: float
    low: float
    high: float
    original: int

    def __post_init__(self):
        if not self.high > self.low:
            raise ValueError(f"llama3 scaling from {self.low} to {self.high} is no range: the high factor is the larger one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of a Llama.

    Attributes:
      vocab: V, rows of the embedding and of the head.
      length: largest number of positions.
      blocks: transformer blocks.
      width: D.
      heads: heads of the queries.
      kv_heads: heads of keys and values, each shared by `heads / kv_heads` heads of queries.
      head_size: width of one head, even.
      mlp_width: hidden width of the MLP.
      tied: whether the head is the embedding.
      attention_bias: whether the four projections of attention have a bias.
      mlp_bias: whether the three projections of the MLP have a bias.
      epsilon: of the norms.
      rope_theta: base of the rotary frequencies.
      rope_scaling: scaling of these frequencies, or None.
      dtype: compute type; norms, softmax and logits are float32.
      remat: `none`, `full` or `dots`: what a backward pass recomputes.
      unroll: blocks laid out one after the other in each turn of the scan.
      attention: one of attention.CHOICES, the implementation of attention.
    """

    vocab: int
    length: int
    blocks: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads do not share {self.kv_heads} key/value heads evenly: take a divisor of {self.heads}"
            )
        if self.head_size % 2:
            raise ValueError(f"head size {self.head_size} is odd, but rotary positions turn pairs: take an even one")
        attention.check(self.attention, attention.network_lacks(self.attention, self.dtype, self.head_size))


def frequencies(cfg):
    """Radians per position of each rotated pair, float32 [head_size / 2] (RoFormer, arXiv 2104.09864; Llama 3.1's scaling)."""
    half = cfg.head_size // 2
    freq_d = cfg.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if (scaling := cfg.rope_scaling) is not None:
        turns_d = scaling.original * freq_d / (2 * np.pi)
        kept_d = np.clip((turns_d - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
        freq_d = freq_d * (kept_d + (1.0 - kept_d) / scaling.factor)
    return freq_d.astype(np.float32)


def _norm(cfg, name):
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("features",))
    return nn.RMSNorm(epsilon=cfg.epsilon, dtype=jnp.float32, name=name, scale_init=ones)


class LlamaBlock(nn.Module):
    """Llama's block: pre-norm causal attention with several query heads per key head, and SwiGLU."""

    cfg: LlamaConfig

    @nn.compact
    def __call__(self, x_BLD, freq_d, deterministic):
        del deterministic  # this block has no dropout
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        b, length, d = x_BLD.shape
        normal, into_residual = nn.initializers.normal(0.02), nn.initializers.normal(0.02 / (2 * cfg.blocks) ** 0.5)
        attend = functools.partial(transformer.dense, dtype=dtype, use_bias=cfg.attention_bias)
        mlp = functools.partial(transformer.dense, dtype=dtype, use_bias=cfg.mlp_bias)

        y_BLD = _norm(cfg, "norm_1")(x_BLD).astype(dtype)
        q, k, v = (
            attend(heads * cfg.head_size, "embed", "heads", name=n, kernel_init=normal)(y_BLD).reshape(b, length, heads, -1)
            for n, heads in (("q", cfg.heads), ("k", cfg.kv_heads), ("v", cfg.kv_heads))
        )
        q, k = attention.rotate(q, freq_d), attention.rotate(k, freq_d)
        y_BLA = attention.attend(cfg.attention, q, k, v, causal=True).reshape(b, length, cfg.heads * cfg.head_size)
        x_BLD = x_BLD + attend(d, "heads", "embed", name="attn_out", kernel_init=into_residual)(y_BLA)

        y_BLD = _norm(cfg, "norm_2")(x_BLD).astype(dtype)
        gate, up = (mlp(cfg.mlp_width, "embed", "mlp", name=n, kernel_init=normal)(y_BLD) for n in ("gate", "up"))
        x_BLD = x_BLD + mlp(d, "mlp", "embed", name="down", kernel_init=into_residual)(nn.silu(gate) * up)
        return transformer.pin(x_BLD.astype(jnp.float32)), None


class Llama(nn.Module):
    """`apply({"params": p}, x_BL)` -> float32 h_BLD after the last norm, and the head that maps it to logits, [D, V]."""

    cfg: LlamaConfig

    @nn.compact
    def __call__(self, x_BL, deterministic=True):
        cfg, part, normal = self.cfg, nn.with_logical_partitioning, nn.initializers.normal(0.02)
        token = nn.Embed(cfg.vocab, cfg.width, name="embed", embedding_init=part(normal, ("vocab", "table")))
        x_BLD = transformer.look_up(token, x_BL).astype(jnp.float32)
        x_BLD, _ = transformer.stack(LlamaBlock, cfg, name="blocks")(x_BLD, jnp.asarray(frequencies(cfg)), deterministic)
        h_BLD = _norm(cfg, "norm")(x_BLD)
        if cfg.tied:
            return h_BLD, token.embedding.T
        return h_BLD, self.param("head", part(normal, ("table", "vocab")), (cfg.width, cfg.vocab))

"""Judges and the autoregressive model: GPT-2's architecture, and the functions of every causal transformer."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tsdfm_jax.models import attention, llama, transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Shape of a GPT-2: `vocab` tokens, at most `length` positions, and its blocks, width and heads.

    `mlp_width` is the hidden width of the MLP, 0 for four times the width. `epsilon` is that of the norms. `attention` is the
    implementation over whole windows (attention.CHOICES); token-by-token decoding always uses XLA's.
    """

    vocab: int
    length: int
    blocks: int
    width: int
    heads: int
    mlp_width: int = 0
    epsilon: float = 1e-5
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(
                f"judge width {self.width} does not split into {self.heads} heads: change judges.widths or judges.heads"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"judges.dropout {self.dropout} must be in [0, 1)")
        attention.check(self.attention, attention.network_lacks(self.attention, self.dtype, self.width // self.heads))


class Cache(NamedTuple):
    """Keys and values of every block at the positions read so far, and the next position.

    Attributes:
      k, v: [blocks, B, L, H, D/H] in the compute type.
      next_N: int32 [blocks], the next position, the same for all blocks.
    """

    k: jax.Array
    v: jax.Array
    next_N: jax.Array


def _attend(cfg, q_BLHd, k_BLHd, v_BLHd, cache):
    """Causal attention among all positions or, with a block's cache, of one position to all that were read: (y, cache)."""
    if cache is None:
        return attention.attend(cfg.attention, q_BLHd, k_BLHd, v_BLHd, causal=True), None
    start = (0, cache.next_N, 0, 0)
    k_BLHd, v_BLHd = (jax.lax.dynamic_update_slice(old, new, start) for old, new in zip(cache, (k_BLHd, v_BLHd)))
    read_L = jnp.arange(cfg.length) <= cache.next_N
    y_B1Hd = jax.nn.dot_product_attention(q_BLHd, k_BLHd, v_BLHd, mask=read_L[None, None, None])
    return y_B1Hd, Cache(k_BLHd, v_BLHd, cache.next_N + 1)


def _norm(cfg, name):
    part = nn.with_logical_partitioning
    ones, zeros = part(nn.initializers.ones, ("features",)), part(nn.initializers.zeros, ("features",))
    return nn.LayerNorm(epsilon=cfg.epsilon, dtype=jnp.float32, name=name, scale_init=ones, bias_init=zeros)


class CausalBlock(nn.Module):
    """GPT-2's block: pre-norm causal attention and tanh-GELU MLP."""

    cfg: CausalConfig

    @nn.compact
    def __call__(self, x_BLD, cache, deterministic):
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        b, length, d = x_BLD.shape
        normal = nn.initializers.normal(0.02)
        into_residual = nn.initializers.normal(0.02 / (2 * cfg.blocks) ** 0.5)

        y_BLD = _norm(cfg, "ln_1")(x_BLD).astype(dtype)
        q, k, v = (
            transformer.dense(d, "embed", "heads", name=n, dtype=dtype, kernel_init=normal)(y_BLD).reshape(b, length, cfg.heads, -1)
            for n in ("q", "k", "v")
        )
        y_BLHd, cache = _attend(cfg, q, k, v, cache)
        y_BLD = y_BLHd.reshape(b, length, d)
        y_BLD = transformer.dense(d, "heads", "embed", name="attn_out", dtype=dtype, kernel_init=into_residual)(y_BLD)
        x_BLD = x_BLD + nn.Dropout(cfg.dropout, deterministic=deterministic)(y_BLD)

        y_BLD = transformer.dense(cfg.mlp_width or 4 * d, "embed", "mlp", name="mlp_in", dtype=dtype, kernel_init=normal)(
            _norm(cfg, "ln_2")(x_BLD).astype(dtype)
        )
        y_BLD = nn.gelu(y_BLD, approximate=True)
        y_BLD = transformer.dense(d, "mlp", "embed", name="mlp_out", dtype=dtype, kernel_init=into_residual)(y_BLD)
        x_BLD = x_BLD + nn.Dropout(cfg.dropout, deterministic=deterministic)(y_BLD)
        return transformer.pin(x_BLD.astype(jnp.float32)), cache


class Causal(nn.Module):
    """`apply({"params": p}, x_BL)` -> float32 h_BLD after the last norm, and the head that maps it to logits, [D, V].

    With a `cache` x_BL is one token of each sequence, at the cache's position, and the new cache is a third result.
    """

    cfg: CausalConfig

    @nn.compact
    def __call__(self, x_BL, deterministic=True, cache=None):
        cfg = self.cfg
        token = nn.Embed(
            cfg.vocab,
            cfg.width,
            name="wte",
            embedding_init=nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "table")),
        )
        position_init = nn.with_logical_partitioning(nn.initializers.normal(0.01), (None, "embed"))
        position_LD = self.param("wpe", position_init, (cfg.length, cfg.width))
        first = 0 if cache is None else cache.next_N[0]
        x_BLD = transformer.look_up(token, x_BL) + jax.lax.dynamic_slice_in_dim(position_LD, first, x_BL.shape[1])[None]
        x_BLD = transformer.pin(x_BLD.astype(jnp.float32))
        x_BLD = nn.Dropout(cfg.dropout, deterministic=deterministic)(x_BLD)
        x_BLD, cache = transformer.stack(CausalBlock, cfg, argument_axis=0, name="blocks")(x_BLD, cache, deterministic)
        # The head is the embedding, transposed before the dot: its gradient then needs no transpose of [B, L, V].
        output = _norm(cfg, "ln_f")(x_BLD), token.embedding.T
        return output if cache is None else (*output, cache)


NETWORKS = {CausalConfig: Causal, llama.LlamaConfig: llama.Llama}


def init(key, cfg):
    """Initial parameters of the network for the class of `cfg`, boxed with their logical axes."""
    return NETWORKS[type(cfg)](cfg).init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def hidden(cfg, params, x_BL):
    """The output of the last norm at every position: float32 h_BLD.

    Raises ValueError where x_BL is longer than the network's context, as do `logits` and `token_nll`.
    """
    return _apply(cfg, params, x_BL, None)[0]


def logits(cfg, params, x_BL, dropout_key=None):
    """Logits of the token after each position, given all tokens up to it: float32 logits_BLV."""
    return _head(cfg, *_apply(cfg, params, x_BL, dropout_key))


def _head(cfg, h_BLD, head_DV):
    dtype, dims = jnp.dtype(cfg.dtype), (((2,), (0,)), ((), ()))
    return transformer.head_dot(h_BLD.astype(dtype), head_DV.astype(dtype), dims).astype(jnp.float32)


def empty_cache(cfg, batch):
    """The Cache of a CausalConfig before the first of `cfg.length` tokens of `batch` sequences."""
    zeros = jnp.zeros((cfg.blocks, batch, cfg.length, cfg.heads, cfg.width // cfg.heads), jnp.dtype(cfg.dtype))
    return Cache(zeros, zeros, jnp.zeros(cfg.blocks, jnp.int32))


def decode(cfg, params, cache, x_B):
    """Read one more token of each sequence, at the cost of one position: (logits_BV of the next token, the new Cache).

    The logits equal those of `logits` for the whole beginning. `cfg` is a CausalConfig. A cache holds `cfg.length` tokens, and
    results for further tokens are wrong.
    """
    h_B1D, head_DV, cache = Causal(cfg).apply({"params": params}, x_B[:, None], True, cache)
    return _head(cfg, h_B1D, head_DV)[:, 0], cache


def token_nll(cfg, params, x_BL, bos, dropout_key=None):
    """-log p(x^i | x^{<i}) in nats at every position, with the document mark `bos` before the first one: nll_BL."""
    context_BL = jnp.concatenate([jnp.full_like(x_BL[:, :1], bos), x_BL[:, :-1]], axis=1)
    logits_BLV = logits(cfg, params, context_BL, dropout_key)
    # A masked sum: the gradient of a gather would be a scatter into [B, L, V].
    at_x_BL = jnp.where(jnp.arange(cfg.vocab)[None, None] == x_BL[..., None], logits_BLV, 0.0).sum(axis=-1)
    return jax.nn.logsumexp(logits_BLV, axis=-1) - at_x_BL


def _apply(cfg, params, x_BL, dropout_key):
    if x_BL.shape[1] > cfg.length:
        raise ValueError(f"{x_BL.shape[1]} tokens are more than the {cfg.length} of the judge's context: cut the text shorter")
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return NETWORKS[type(cfg)](cfg).apply({"params": params}, x_BL, dropout_key is None, rngs=rngs)

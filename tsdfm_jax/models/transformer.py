"""The DiT of teacher and student.

Letters in names of the whole project: B batch, L positions, V vocabulary (with the mask token if the source is `mask`), K
candidates, D width, H heads, C conditioning width, S midpoints of a trajectory.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from tsdfm_jax.models import attention

SINUSOIDS = 256
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of one network.

    Attributes:
      vocab: rows of the embedding and of the head, V.
      blocks: transformer blocks.
      width: D.
      heads: H; divides `width` into even head sizes.
      cond_width: C, width of the time conditioning.
      mlp_ratio: hidden width of the MLP over D.
      dropout: rate on the outputs of attention and MLP.
      dtype: compute type, `float32` or `bfloat16`; parameters, norms, softmax and logits stay float32.
      remat: `none`, `full` or `dots`: what the backward pass recomputes.
      unroll: blocks in each turn of the scan; more run faster and take longer to compile.
      attention: one of attention.CHOICES, the implementation of attention; results differ by rounding.
      step_conditioned: whether the network is given the step size h (the student).
    """

    vocab: int
    blocks: int
    width: int
    heads: int
    cond_width: int
    mlp_ratio: int = 4
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    step_conditioned: bool = False

    def __post_init__(self):
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width {self.width} does not split into {self.heads} heads of even size: change model.width or model.heads"
            )
        if self.remat not in REMAT:
            raise ValueError(f"model.remat '{self.remat}' is not one of {', '.join(REMAT)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype '{self.dtype}' is not one of float32, bfloat16")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout {self.dropout} must be in [0, 1)")
        attention.check(self.attention, attention.network_lacks(self.attention, self.dtype, self.width // self.heads))


def flat_dot(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """A dot over the last axis with the leading axes merged, so that its weight gradient is one plain matrix product.

    XLA's CPU backend takes twice as long for the same gradient contracted over two axes; elsewhere merging costs nothing.
    """
    product = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), precision, preferred_element_type)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def is_split(axis):
    """Whether the current mesh (if any) splits a logical axis over devices."""
    mesh, (names,) = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes((axis,)) or (None,)
    names = (names,) if isinstance(names, str) else names or ()
    return not mesh.empty and math.prod(mesh.shape[name] for name in names) > 1


def head_dot(x_BLD, kernel_DV, dimension_numbers, precision=None, preferred_element_type=None):
    """The projection to [B, L, V]: the kernel is gathered whole, so each device has whole rows of V for its positions.

    Softmax, losses and prefix sums of these logits then need no other device.
    """
    kernel_DV = nn.with_logical_constraint(kernel_DV, (None, "vocab"))
    x_BLD = nn.with_logical_constraint(x_BLD, ("batch", "positions", None))
    # Merging B and L would gather the positions again.
    dot = jax.lax.dot_general if is_split("positions") else flat_dot
    logits_BLV = dot(x_BLD, kernel_DV, dimension_numbers, precision, preferred_element_type)
    return nn.with_logical_constraint(logits_BLV, ("batch", "positions", "vocab"))


def dense(features, in_axis, out_axis, *, name, dtype, use_bias=True, kernel_init=nn.initializers.lecun_normal(), dot=flat_dot):
    """A linear layer whose kernel carries logical axes `(in_axis, out_axis)`."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        name=name,
        dot_general=dot,
        kernel_init=nn.with_logical_partitioning(kernel_init, (in_axis, out_axis)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (out_axis,)),
    )


def layer_norm(name):
    """LayerNorm with a weight and no bias, in float32 for every compute type."""
    return nn.LayerNorm(
        epsilon=1e-5,
        use_bias=False,
        dtype=jnp.float32,
        name=name,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("features",)),
    )


def sinusoids(t_B):
    """Cosine, then sine features of an unscaled time (or step size) in [0, 1]: [B] -> [B, 256]."""
    half = SINUSOIDS // 2
    freq_F = jnp.exp(-math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle_BF = t_B[:, None] * freq_F[None, :]
    return jnp.concatenate([jnp.cos(angle_BF), jnp.sin(angle_BF)], axis=-1)


def modulate(x_BLD, shift_BD, scale_BD):
    return x_BLD * (1.0 + scale_BD[:, None]) + shift_BD[:, None]


def pin(x_BLD):
    """Keep the residual stream split over the batch under a mesh: without this XLA may place it badly."""
    return nn.with_logical_constraint(x_BLD, ("batch", "length", "embed"))


class TimeMLP(nn.Module):
    """Embedding of a time or of a step size: [B] -> [B, C]."""

    width: int
    out_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, t_B):
        hidden_BC = dense(self.width, "features", "cond", name="in", dtype=jnp.float32)(sinusoids(t_B))
        out = dense(self.width, "features", "cond", name="out", dtype=jnp.float32, kernel_init=self.out_init)
        return out(nn.silu(hidden_BC))


def _mirror(key, shape, dtype=jnp.float32):
    """[[I, -I], [0, 0]]: maps the time to (t, -t), with zero weights for the step size, to be learned."""
    del key
    eye = jnp.eye(shape[0] // 2, dtype=dtype)
    return jnp.concatenate([jnp.concatenate([eye, -eye], 1), jnp.zeros((shape[0] // 2, shape[1]), dtype)], 0)


def _unmirror(key, shape, dtype=jnp.float32):
    """[I; -I]: since SiLU(x) - SiLU(-x) = x, it undoes `_mirror` exactly."""
    del key
    eye = jnp.eye(shape[1], dtype=dtype)
    return jnp.concatenate([eye, -eye], 0)


class Conditioning(nn.Module):
    """Map the time, and for a student the step size, to the vector that modulates every block.

    With a step size a linear map 2C -> 2C joins the two embeddings, and each block fuses 2C -> C. Both maps are initialised
    so that the student starts exactly as its teacher: SiLU(x) - SiLU(-x) = x. [D] Without a step size a student is conditioned
    like a teacher and uses neither map.
    """

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, t_B, h_B):
        c = self.cfg.cond_width
        time_BC = TimeMLP(c, name="time_embedding")(t_B)
        if not self.cfg.step_conditioned or h_B is None:
            return nn.silu(time_BC)
        step_BC = TimeMLP(c, name="dt_embedding")(h_B)
        fuser = dense(2 * c, "features", "cond", name="time_condition_fuser", dtype=jnp.float32, kernel_init=_mirror)
        return nn.silu(fuser(jnp.concatenate([time_BC, step_BC], axis=-1)))


def fuse(cfg, cond_BC):
    """A block's conditioning: [B, C] unchanged, or with a step size [B, 2C] -> [B, C] by the block's own map."""
    if cond_BC.shape[-1] == cfg.cond_width:
        return cond_BC
    layer = dense(cfg.cond_width, "features", "cond", name="condition_fuser", dtype=jnp.float32, kernel_init=_unmirror)
    return nn.silu(layer(cond_BC))


class Block(nn.Module):
    """Attention and MLP, each with adaLN: shift, scale and gate from the conditioning."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD, cond_BC, deterministic):
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        b, length, d = x_BLD.shape
        zeros = nn.initializers.zeros
        ada = dense(6 * d, "cond", "features", name="adaLN_modulation", dtype=jnp.float32, kernel_init=zeros)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(ada(fuse(cfg, cond_BC)), 6, axis=-1)

        y_BLD = modulate(layer_norm("norm1")(x_BLD), shift_a, scale_a).astype(dtype)
        q, k, v = (
            dense(d, "embed", "heads", name=n, dtype=dtype, use_bias=False)(y_BLD).reshape(b, length, cfg.heads, -1)
            for n in ("qw", "kw", "vw")
        )
        y_BLD = attention.attend(cfg.attention, attention.rotate(q), attention.rotate(k), v).reshape(b, length, d)
        y_BLD = dense(d, "heads", "embed", name="attn_out", dtype=dtype, use_bias=False)(y_BLD)
        y_BLD = nn.Dropout(cfg.dropout, deterministic=deterministic)(y_BLD)
        x_BLD = x_BLD + gate_a[:, None] * y_BLD

        y_BLD = modulate(layer_norm("norm2")(x_BLD), shift_m, scale_m).astype(dtype)
        y_BLD = dense(cfg.mlp_ratio * d, "embed", "mlp", name="mlp_in", dtype=dtype)(y_BLD)
        y_BLD = dense(d, "mlp", "embed", name="mlp_out", dtype=dtype)(nn.gelu(y_BLD, approximate=True))
        y_BLD = nn.Dropout(cfg.dropout, deterministic=deterministic)(y_BLD)
        return pin((x_BLD + gate_m[:, None] * y_BLD).astype(jnp.float32)), None


def stack(block, cfg, argument_axis=nn.broadcast, **kwargs):
    """`cfg.blocks` copies of a block module as one scan, rematerialised as `cfg.remat` says.

    The block's second argument is the same for all blocks; with `argument_axis=0` each block gets its part of the leading axis.
    For an argument that is a dict, `argument_axis` may be a dict of both.
    """
    if REMAT[cfg.remat] is not None:
        block = nn.remat(block, policy=REMAT[cfg.remat], prevent_cse=False, static_argnums=(3,))
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(argument_axis, nn.broadcast),
        length=cfg.blocks,
        unroll=cfg.unroll,
        metadata_params={meta.PARTITION_NAME: "blocks"},
    )
    return scanned(cfg, **kwargs)


def embedding(cfg, name="vocab_embed"):
    """The table of tokens, [V, D]."""
    init = nn.initializers.normal(cfg.width**-0.5)
    return nn.Embed(cfg.vocab, cfg.width, name=name, embedding_init=nn.with_logical_partitioning(init, ("vocab", "table")))


def look_up(table, x_BL):
    """The rows of an `nn.Embed` for each token, [B, L, D]; devices gather the table, not the rows of the whole batch."""
    return pin(jnp.take(nn.with_logical_constraint(table.embedding, ("vocab", None)), x_BL, axis=0))


class Transformer(nn.Module):
    """Logits of the data's token at every position, given a noised sequence and its time.

    `apply({"params": p}, x_BL, t_B, h_B)`: x_BL int32 tokens, t_B in [0, 1], h_B the step size, ignored unless
    `cfg.step_conditioned`; a student without it (None) uses the time only. Returns float32 logits_BLV.
    """

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, x_BL, t_B, h_B=None, deterministic=True):
        cfg = self.cfg
        cond_BC = Conditioning(cfg, name="conditioning")(t_B, h_B)
        x_BLD = look_up(embedding(cfg), x_BL)
        x_BLD, _ = stack(Block, cfg, name="blocks")(x_BLD, cond_BC, deterministic)
        return OutputLayer(cfg, name="output_layer")(x_BLD, cond_BC).astype(jnp.float32)


class OutputLayer(nn.Module):
    """The last norm, modulated, and the head, which is initialised to zero logits."""

    cfg: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD, cond_BC):
        cfg, dtype, zeros = self.cfg, jnp.dtype(self.cfg.dtype), nn.initializers.zeros
        ada = dense(2 * cfg.width, "cond", "features", name="adaLN_modulation", dtype=jnp.float32, kernel_init=zeros)
        shift_BD, scale_BD = jnp.split(ada(fuse(cfg, cond_BC)), 2, axis=-1)
        y_BLD = modulate(layer_norm("norm_final")(x_BLD), shift_BD, scale_BD).astype(dtype)
        return dense(cfg.vocab, "table", "vocab", name="linear", dtype=dtype, kernel_init=zeros, dot=head_dot)(y_BLD)


def init(key, cfg, length):
    """Initial parameters, boxed with their logical axes."""
    x_BL = jnp.zeros((1, length), jnp.int32)
    return Transformer(cfg).init(key, x_BL, jnp.zeros((1,)), jnp.zeros((1,)))["params"]


def apply(cfg, params, x_BL, t_B, h_B=None, dropout_key=None):
    """Logits_BLV of a network; a `dropout_key` makes it a training pass."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return Transformer(cfg).apply({"params": params}, x_BL, t_B, h_B, dropout_key is None, rngs=rngs)


def overlay(params, source, prefix=""):
    """Replace boxed parameters by those of another network (unboxed) where it has them; the rest keep their initial values.

    Raises ValueError naming the first parameter whose shape differs.
    """
    if isinstance(params, dict):
        return {k: overlay(v, source[k], f"{prefix}{k}/") if k in source else v for k, v in params.items()}
    if params.value.shape != source.shape:
        raise ValueError(
            f"parameter {prefix[:-1]} has shape {source.shape}, but the network {params.value.shape}: "
            f"take weights made with the same model config"
        )
    return params.replace_boxed(source)


def parameters(params):
    """Number of parameters of a tree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))

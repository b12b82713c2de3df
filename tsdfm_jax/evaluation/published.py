"""Formats of published models: map `config.json` to a network's config, and tensor names to its parameters."""

import dataclasses
import numbers
import re
from collections.abc import Callable

from tsdfm_jax.models import causal, llama

# Tensors that some versions store but that are no parameters: masks, and frequencies that follow from the config.
IGNORED = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")

# Keys of config.json that change the results, with the implemented values; the first value is the default.
ANY = {"quantization_config": (None,), "is_causal": (True,)}
GPT2 = ANY | {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # three names of one function
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
LLAMA = ANY | {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0, None)}
MISTRAL_WINDOW = 4096  # default of sliding_window in a Mistral config
MISTRAL_KV_HEADS = 8

# Module here -> published module; `{}` stands for the block's number.
GPT2_NAMES = {
    "wte": "wte",
    "wpe": "wpe",
    "blocks/ln_1": "h.{}.ln_1",
    "blocks/q": "h.{}.attn.c_attn",
    "blocks/k": "h.{}.attn.c_attn",
    "blocks/v": "h.{}.attn.c_attn",
    "blocks/attn_out": "h.{}.attn.c_proj",
    "blocks/ln_2": "h.{}.ln_2",
    "blocks/mlp_in": "h.{}.mlp.c_fc",
    "blocks/mlp_out": "h.{}.mlp.c_proj",
    "ln_f": "ln_f",
}
LLAMA_NAMES = {
    "embed": "embed_tokens",
    "blocks/norm_1": "layers.{}.input_layernorm",
    "blocks/q": "layers.{}.self_attn.q_proj",
    "blocks/k": "layers.{}.self_attn.k_proj",
    "blocks/v": "layers.{}.self_attn.v_proj",
    "blocks/attn_out": "layers.{}.self_attn.o_proj",
    "blocks/norm_2": "layers.{}.post_attention_layernorm",
    "blocks/gate": "layers.{}.mlp.gate_proj",
    "blocks/up": "layers.{}.mlp.up_proj",
    "blocks/down": "layers.{}.mlp.down_proj",
    "norm": "norm",
    "head": "lm_head",
}
THIRDS = {"blocks/q": 0, "blocks/k": 1, "blocks/v": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Source of a parameter: published name, whether it is stored transposed, and which third of the last axis it is."""

    name: str
    transposed: bool = False
    third: int | None = None

    def shape(self, shape):
        """The shape in the file of a parameter with `shape` (without blocks) here."""
        shape = shape[::-1] if self.transposed else shape
        return shape if self.third is None else (*shape[:-1], 3 * shape[-1])

    def read(self, tensors, name, index, shape):
        """The part `index` of an array of `shape` (both without blocks), from the tensor `name` of a directory."""
        spans = [at.indices(size)[:2] for at, size in zip(index, shape)]
        if self.third is not None:
            spans[-1] = tuple(self.third * shape[-1] + at for at in spans[-1])
        index = tuple(slice(*span) for span in spans)
        return tensors.read(name, index[::-1]).T if self.transposed else tensors.read(name, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One model_type: `config(file, c, dtype)` gives the network's config, `source(path)` where a parameter comes from."""

    config: Callable
    prefix: str  # optional prefix of the names
    names: dict
    table: str  # path of the embedding
    joined: bool  # GPT-2 stores [in, out], with q, k and v in one tensor; Llama [out, in], each in its own

    def source(self, path):
        """The Source of the parameter at `path`, as "blocks/q/kernel"."""
        module, _, leaf = path.rpartition("/")
        if path in self.names:
            module, leaf = path, "kernel" if path == "head" else "table"
        third = THIRDS.get(module) if self.joined else None
        name = f"{self.names[module]}.{'bias' if leaf == 'bias' else 'weight'}"
        return Source(name=name, transposed=leaf == "kernel" and not self.joined, third=third)


def network(file, c, dtype):
    """(Kind, static config) of a model from its config.json `c`; `file` is its path, for errors.

    Raises ValueError, in one line, for another architecture, for a missing or invalid size, and for any value that would
    change the results in a way that is not implemented.
    """
    if c.get("model_type") not in KINDS:
        raise ValueError(f"{file}: model_type {c.get('model_type')!r} is not one of {', '.join(KINDS)}: take a model of these")
    kind = KINDS[c["model_type"]]
    try:
        return kind, kind.config(file, c, dtype)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(file)) else f"{file}: {message}") from None


def _gpt2(file, c, dtype):
    _accept(file, c, GPT2)
    width, heads = _size(file, c, "n_embd"), _size(file, c, "n_head")
    if width % heads:
        raise ValueError(f"{file}: n_embd {width} is no multiple of n_head {heads}: download it again")
    return causal.CausalConfig(
        vocab=_size(file, c, "vocab_size"),
        length=_size(file, c, "n_positions"),
        blocks=_size(file, c, "n_layer"),
        width=width,
        heads=heads,
        mlp_width=_size(file, c, "n_inner", 4 * width),
        epsilon=_number(file, c, "layer_norm_epsilon", 1e-5),
        dtype=dtype,
    )


def _llama(file, c, dtype):
    _accept(file, c, LLAMA)
    width, heads = _size(file, c, "hidden_size"), _size(file, c, "num_attention_heads")
    length, mistral = _size(file, c, "max_position_embeddings"), c["model_type"] == "mistral"
    window = _size(file, c, "sliding_window", length) if "sliding_window" in c or not mistral else MISTRAL_WINDOW
    if window < length:
        raise ValueError(
            f"{file}: sliding_window {window} is not implemented below the context of {length}: take a model without one"
        )
    if "head_dim" not in c and width % heads:
        raise ValueError(f"{file}: hidden_size {width} is no multiple of num_attention_heads {heads}: download it again")
    return llama.LlamaConfig(
        vocab=_size(file, c, "vocab_size"),
        length=length,
        blocks=_size(file, c, "num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=_size(file, c, "num_key_value_heads", MISTRAL_KV_HEADS if mistral else heads),
        head_size=_size(file, c, "head_dim", width // heads),
        mlp_width=_size(file, c, "intermediate_size"),
        tied=_flag(file, c, "tie_word_embeddings"),
        attention_bias=_flag(file, c, "attention_bias"),
        mlp_bias=_flag(file, c, "mlp_bias"),
        epsilon=_number(file, c, "rms_norm_eps", 1e-6),
        **_rotary(file, c, length),
        dtype=dtype,
    )


def _rotary(file, c, length):
    """Rotary base and scaling: from `rope_parameters`, or in older files from `rope_theta` and `rope_scaling`."""
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(f"{file}: rope_parameters {rope!r} differ by layer or are no object, which is not implemented")
    _accept(file, rope, {"partial_rotary_factor": LLAMA["partial_rotary_factor"]})
    theta = _number(file, rope if "rope_theta" in rope else c, "rope_theta", 10_000.0)
    name = rope.get("rope_type", rope.get("type", "default"))
    if name not in ("default", "llama3"):
        raise ValueError(f"{file}: rope_type {name!r} of rope_scaling is not implemented: take a model with default or llama3")
    if name == "default":
        return dict(rope_theta=theta)
    original = c if "original_max_position_embeddings" in c else rope
    scaling = llama.Llama3Scaling(
        factor=_number(file, rope, "factor"),
        low=_number(file, rope, "low_freq_factor"),
        high=_number(file, rope, "high_freq_factor"),
        original=_size(file, original, "original_max_position_embeddings", length),
    )
    return dict(rope_theta=theta, rope_scaling=scaling)


def _accept(file, c, accepted):
    for key, values in accepted.items():
        if key in c and c[key] not in values:
            raise ValueError(f"{file}: {key} {c[key]!r} is not implemented: take a model with {key} {values[0]!r}")


def _size(file, c, key, default=None):
    if c.get(key) is None and default is not None:
        return default
    if type(c.get(key)) is not int or c[key] < 1:
        raise ValueError(f"{file}: {key} {c.get(key)!r} must be a whole number, at least 1: download it again")
    return c[key]


def _number(file, c, key, default=None):
    value = c.get(key, default)
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < float("inf"):
        raise ValueError(f"{file}: {key} {value!r} must be a number above 0: download it again")
    return float(value)


def _flag(file, c, key):
    if type(value := c.get(key, False)) is not bool:
        raise ValueError(f"{file}: {key} {value!r} must be true or false: download it again")
    return value


_GPT2 = Kind(config=_gpt2, prefix="transformer.", names=GPT2_NAMES, table="wte/embedding", joined=True)
_LLAMA = Kind(config=_llama, prefix="model.", names=LLAMA_NAMES, table="embed/embedding", joined=False)
KINDS = {"gpt2": _GPT2, "llama": _LLAMA, "mistral": _LLAMA}

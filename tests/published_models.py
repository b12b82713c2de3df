"""Small random GPT-2 and Llama models in the published format, written with NumPy."""

import json

import jax.numpy as jnp
import numpy as np
import tokenizers
from safetensors import numpy as safetensors

VOCAB, LENGTH, BLOCKS, WIDTH = 61, 16, 2, 16

GPT2 = dict(model_type="gpt2", vocab_size=VOCAB, n_positions=LENGTH, n_embd=WIDTH, n_layer=BLOCKS, n_head=4, n_inner=40)
GPT2 |= dict(activation_function="gelu_new", layer_norm_epsilon=1e-3, bos_token_id=7)
LLAMA = dict(model_type="llama", vocab_size=VOCAB, max_position_embeddings=LENGTH, hidden_size=WIDTH, num_hidden_layers=BLOCKS)
LLAMA |= dict(num_attention_heads=4, num_key_value_heads=2, head_dim=6, intermediate_size=24, hidden_act="silu", rms_norm_eps=1e-3)
LLAMA |= dict(attention_bias=True, rope_theta=1000.0, tie_word_embeddings=False)


def gpt2(seed=0):
    """Tensors of a model of the GPT2 config, {name without prefix: array}."""
    shapes = {"wte.weight": (VOCAB, WIDTH), "wpe.weight": (LENGTH, WIDTH), "ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    for block in range(BLOCKS):
        for name, shape in {"ln_1": (WIDTH,), "ln_2": (WIDTH,)}.items():
            shapes |= {f"h.{block}.{name}.weight": shape, f"h.{block}.{name}.bias": shape}
        for name, (rows, columns) in {
            "attn.c_attn": (WIDTH, 3 * WIDTH),
            "attn.c_proj": (WIDTH, WIDTH),
            "mlp.c_fc": (WIDTH, 40),
            "mlp.c_proj": (40, WIDTH),
        }.items():
            shapes |= {f"h.{block}.{name}.weight": (rows, columns), f"h.{block}.{name}.bias": (columns,)}
    return draw(shapes, seed)


def llama(seed=0):
    """Tensors of a model of the LLAMA config, {name with prefix: array}."""
    shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (VOCAB, WIDTH)}
    for block in range(BLOCKS):
        at = f"model.layers.{block}"
        shapes |= {f"{at}.input_layernorm.weight": (WIDTH,), f"{at}.post_attention_layernorm.weight": (WIDTH,)}
        for name, (rows, columns) in {
            "q_proj": (24, WIDTH),
            "k_proj": (12, WIDTH),
            "v_proj": (12, WIDTH),
            "o_proj": (WIDTH, 24),
        }.items():
            shapes |= {f"{at}.self_attn.{name}.weight": (rows, columns), f"{at}.self_attn.{name}.bias": (rows,)}
        shapes |= {f"{at}.mlp.{name}.weight": (24, WIDTH) for name in ("gate_proj", "up_proj")}
        shapes |= {f"{at}.mlp.down_proj.weight": (WIDTH, 24)}
    return draw(shapes, seed)


def draw(shapes, seed):
    """Random arrays that give logits of a few units: matrices around 0, norms and biases around 1."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(len(shape) == 1, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


MODELS = {"gpt2": (GPT2, gpt2), "llama": (LLAMA, llama)}


def write(directory, config, tensors, dtype=None):
    """Write config, weights (one file) and tokenizer to a directory; weights keep their type, or all are cast to `dtype`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    stored = {name: np.ascontiguousarray(value.astype(jnp.dtype(dtype or value.dtype))) for name, value in tensors.items()}
    safetensors.save_file(stored, directory / "model.safetensors")
    write_tokenizer(directory / "tokenizer.json", VOCAB)
    return directory


def write_sharded(directory, config, tensors, shards):
    """Write the same directory with the weights in `shards` files and an index."""
    write(directory, config, {})
    (directory / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        safetensors.save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def write_tokenizer(path, vocab, end="<|endoftext|>"):
    """Write a tokenizer.json of `vocab` tokens, one word each; the last is the document end."""
    words = {f"w{number}": number for number in range(vocab - 1)} | {end: vocab - 1}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.save(str(path))

"""A published model that is damaged or not implemented gives a one-line error."""

import json
import sys

import numpy as np
import pytest

from tests import published_models
from tsdfm_jax.evaluation import pretrained

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def drop(name):
    return lambda directory: (directory / name).unlink()


def cut(name, size):
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def weights(change):
    """A step that rewrites the weights after `change(names)`."""

    def step(directory):
        names = published_models.gpt2()
        change(names)
        published_models.write(directory, published_models.GPT2, names)

    return step


def config(**values):
    """A step that changes values of the config; None drops a key."""

    def step(directory):
        changed = published_models.GPT2 | values
        (directory / "config.json").write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))

    return step


def index(change):
    """A step that makes two shards and changes their index."""

    def step(directory):
        published_models.write_sharded(directory, published_models.GPT2, published_models.gpt2(), 2)
        value = json.loads((directory / INDEX).read_text())
        change(value["weight_map"])
        (directory / INDEX).write_text(json.dumps(value))

    return step


ACCIDENTS = {
    "no config": (drop("config.json"), "config.json is missing"),
    "no weights": (drop(SINGLE), f"{SINGLE} is missing"),
    "no tokenizer": (drop("tokenizer.json"), "tokenizer.json is missing"),
    "half a config": (cut("config.json", 20), "cannot be read as JSON"),
    "a truncated file": (cut(SINGLE, -10), "truncated"),
    "an empty file": (cut(SINGLE, 0), "truncated"),
    "half a tokenizer": (cut("tokenizer.json", 50), "cannot be read as a tokenizer"),
    "a name is missing": (weights(lambda names: names.pop("h.1.ln_2.bias")), "lacks 'h.1.ln_2.bias' (1 of 28"),
    "a name is extra": (weights(lambda names: names.update({"h.2.ln_1.bias": np.ones(3)})), "holds 'h.2.ln_1.bias'"),
    "a name is there twice": (weights(lambda names: names.update({"transformer.wpe.weight": names["wpe.weight"]})), "holds both"),
    "a shape is wrong": (weights(lambda names: names.update({"ln_f.bias": np.ones(3)})), "'ln_f.bias' has shape (3,)"),
    "integers": (weights(lambda names: names.update({"ln_f.bias": np.ones(16, np.int8)})), "'ln_f.bias' is of type I8"),
    "a head of its own": (weights(lambda names: names.update({"lm_head.weight": 2 * names["wte.weight"]})), "is not 'wte.weight'"),
    "a shard is missing": (index(lambda listed: listed.update({"x": "model-3.safetensors"})), "model-3.safetensors is missing"),
    "the index names too much": (index(lambda listed: listed.update({"x": min(listed.values())})), "does not hold it"),
    "the index names too little": (index(lambda listed: listed.pop("wpe.weight")), "does not say"),
    "the index leads out": (index(lambda listed: listed.update({"wpe.weight": "../x.safetensors"})), "'../x.safetensors'"),
    "the index is empty": (index(lambda listed: listed.clear()), "no weight_map"),
    "a foreign type": (config(model_type="bert"), "model_type 'bert' is not one of gpt2, llama, mistral"),
    "no type": (config(model_type=None), "model_type None"),
    "another activation": (config(activation_function="relu"), "activation_function 'relu'"),
    "attention scaled by layer": (config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx True"),
    "attention not scaled": (config(scale_attn_weights=False), "scale_attn_weights False"),
    "an untied GPT-2": (config(tie_word_embeddings=False), "tie_word_embeddings False"),
    "quantised": (config(quantization_config={"bits": 4}), "quantization_config {'bits': 4}"),
    "heads do not divide": (config(n_head=3), "n_embd 16 is no multiple of n_head 3"),
    "a size is missing": (config(n_layer=None), "n_layer None"),
    "a size is text": (config(n_embd="16"), "n_embd '16'"),
    "epsilon is nothing": (config(layer_norm_epsilon=0), "layer_norm_epsilon 0"),
    "BOS is out of reach": (config(bos_token_id=61), "bos_token_id 61"),
    "a larger tokenizer": (config(vocab_size=60, bos_token_id=1), "tokenizer.json has 61 tokens"),
    "fewer blocks": (config(n_layer=1), "holds 'h.1."),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_accidents_are_one_line(accident, tmp_path):
    """Anything missing, damaged or of another model is named, with its file, in one line."""
    published_models.write(tmp_path, published_models.GPT2, published_models.gpt2())
    step, said = ACCIDENTS[accident]
    step(tmp_path)
    refused(tmp_path, said)


def refused(directory, said):
    with pytest.raises(ValueError) as caught:
        pretrained.load(directory)
    assert said in str(caught.value) and str(directory) in str(caught.value) and "\n" not in str(caught.value)


LLAMA_REFUSED = {
    "rope_type 'yarn'": dict(rope_scaling=dict(rope_type="yarn", factor=2.0)),
    "rope_type 'linear'": dict(rope_parameters=dict(type="linear", factor=2.0)),
    "differ by layer": dict(rope_parameters=dict(full_attention=dict(rope_theta=1.0))),
    "low_freq_factor None": dict(rope_scaling=dict(rope_type="llama3", factor=2.0)),
    "no range": dict(rope_scaling=dict(rope_type="llama3", factor=2.0, low_freq_factor=4.0, high_freq_factor=4.0)),
    "partial_rotary_factor 0.5": dict(partial_rotary_factor=0.5),
    "partial_rotary_factor 0.25": dict(rope_parameters=dict(partial_rotary_factor=0.25)),
    "hidden_act 'gelu'": dict(hidden_act="gelu"),
    "sliding_window 8": dict(sliding_window=8),
    "sliding_window 4096": dict(model_type="mistral", max_position_embeddings=8192),
    "is_causal False": dict(is_causal=False),
    "3 key/value heads": dict(num_key_value_heads=3),
    "head size 5": dict(head_dim=5),
    "rope_theta 'x'": dict(rope_theta="x"),
    "attention_bias 'yes'": dict(attention_bias="yes"),
    "lacks 'lm_head.weight'": dict(),
}


@pytest.mark.parametrize("said", LLAMA_REFUSED)
def test_what_llama_files_say_and_is_not_implemented_is_refused(said, tmp_path):
    """Every config value that would change a Llama's output and is not implemented is refused."""
    names = {name: value for name, value in published_models.llama().items() if name != "lm_head.weight"}
    refused(published_models.write(tmp_path, published_models.LLAMA | LLAMA_REFUSED[said], names), said)


@pytest.mark.parametrize("package", ["safetensors", "tokenizers"])
def test_a_missing_package_is_one_line(package, monkeypatch, tmp_path):
    """A missing package gives one line that says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    refused(published_models.write(tmp_path, published_models.GPT2, published_models.gpt2()), "pip install")

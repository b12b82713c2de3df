"""A judge loaded from a published directory gives the results of `transformers`."""

import jax
import numpy as np
import pytest

from tests import published_models
from tsdfm_jax.evaluation import pretrained
from tsdfm_jax.models import causal

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 24
GPT2 = dict(n_positions=LENGTH, n_layer=2)
LLAMA = dict(max_position_embeddings=LENGTH, num_hidden_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=10_000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=64)  # of a head's 8 frequencies, some are kept, some mixed, some scaled

CASES = {
    "gpt2": ("GPT2", GPT2 | dict(vocab_size=64, n_embd=32, n_head=4)),
    "gpt2, odd vocabulary and MLP": (
        "GPT2",
        GPT2 | dict(vocab_size=71, n_embd=24, n_head=2, n_layer=3, n_inner=52, layer_norm_epsilon=1e-2),
    ),
    "llama, one key head, biases": (
        "Llama",
        LLAMA | dict(intermediate_size=40, num_key_value_heads=1, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2),
    ),
    "llama 3, two key heads, tied": (
        "Llama",
        LLAMA
        | dict(vocab_size=71, intermediate_size=56, num_key_value_heads=2, head_dim=16, rope_parameters=LLAMA3)
        | dict(tie_word_embeddings=True),
    ),
    "mistral, all key heads": ("Mistral", LLAMA | dict(intermediate_size=48, num_key_value_heads=4, sliding_window=None)),
}


def born(family, shape, seed=0):
    """A random model with no parameter at its initial value, and logits of a few units."""
    config = getattr(transformers, f"{family}Config")(**shape, bos_token_id=5, eos_token_id=6)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if weight.ndim == 1:
                weight.copy_(0.3 * noise if name.endswith("bias") else 1.0 + 0.3 * noise)
            else:  # tables are rows of width D; a projection sums over its inputs, which GPT-2 stores first
                fan_in = 2.0 if weight.shape[0] == shape["vocab_size"] else weight.shape[0 if family == "GPT2" else 1]
                weight.copy_(noise / fan_in**0.5)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path):
    """Logits and last hidden states agree to 1e-4 in float32, for every shape, also from shards."""
    torch.set_num_threads(1)
    family, shape = CASES[case]
    model = born(family, shape)
    model.save_pretrained(tmp_path, safe_serialization=True, max_shard_size="20KB" if "3" in case else "1GB")
    published_models.write_tokenizer(tmp_path / "tokenizer.json", shape["vocab_size"])
    judge = pretrained.load(tmp_path)
    assert (judge.bos, judge.context) == (5, LENGTH)
    x_BL = np.random.default_rng(1).integers(0, shape["vocab_size"], (3, LENGTH))

    with torch.no_grad():
        theirs = model(torch.tensor(x_BL), output_hidden_states=True)
    ours = jax.jit(lambda params: (causal.hidden(judge.cfg, params, x_BL), causal.logits(judge.cfg, params, x_BL)))

    assert 1.0 < theirs.logits.std() < 10.0
    for got, wanted in zip(ours(judge.params), (theirs.hidden_states[-1], theirs.logits), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-4)

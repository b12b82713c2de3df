"""Published models load onto any mesh with the same numbers."""

import functools
import hashlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import published_models
from tsdfm_jax.evaluation import pretrained
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import mesh as meshes

KINDS = ("gpt2", "llama")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
X_BL = np.random.default_rng(3).integers(0, published_models.VOCAB, (4, published_models.LENGTH))


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """One directory per kind, in the published format."""
    root = tmp_path_factory.mktemp("models")
    return {kind: published_models.write(root / kind, config, make()) for kind, (config, make) in published_models.MODELS.items()}


@functools.cache
def program(cfg):
    """The jitted `(params, x_BL) -> logits_BLV`, compiled once for all tests."""
    return jax.jit(lambda params, x_BL: causal.logits(cfg, params, x_BL))


def equal(a, b):
    """Whether two parameter trees are equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(jax.device_get(x), jax.device_get(y)), a, b)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_holds_parts_and_gives_the_same_logits(directories, kind):
    """2 × 2 × 2 devices, each with only its part of the weights, give one device's logits and NLLs."""
    mesh = meshes.make_mesh(meshes.MeshConfig(data=2, fsdp=2, tensor=2))
    one, many = pretrained.load(directories[kind]), pretrained.load(directories[kind], mesh)
    assert equal(one.params, many.params)
    wanted = meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), many.cfg))
    assert jax.tree.map(lambda x: (x.shape, x.sharding), many.params) == jax.tree.map(lambda x: (x.shape, x.sharding), wanted)
    leaves = jax.tree.leaves(many.params)
    assert sum(x.addressable_shards[0].data.nbytes for x in leaves) < sum(x.nbytes for x in leaves) / 3

    cfg, bos = one.cfg, one.bos
    both = meshes.jit(mesh, lambda p, x: (causal.logits(cfg, p, x), causal.token_nll(cfg, p, x, bos)))
    logits_BLV, nll_BL = both(many.params, meshes.put_whole(mesh, X_BL))
    assert jnp.std(logits_BLV) > 0.5
    np.testing.assert_allclose(logits_BLV, program(cfg)(one.params, X_BL), atol=1e-5)
    context_BL = np.concatenate([np.full((4, 1), bos), X_BL[:, :-1]], axis=1)
    log_p_BLV = jax.nn.log_softmax(np.asarray(program(cfg)(one.params, context_BL)))
    np.testing.assert_allclose(nll_BL, -np.take_along_axis(np.asarray(log_p_BLV), X_BL[..., None], axis=-1)[..., 0], atol=1e-5)


def test_every_parameter_is_the_published_one(directories):
    """Every tensor is in its place: GPT-2's are [in, out] with q, k, v side by side, Llama's are [out, in] and transposed."""
    gpt2, names = pretrained.load(directories["gpt2"]).params, published_models.gpt2()
    width = published_models.WIDTH
    for third, name in enumerate("qkv"):
        columns = slice(third * width, (third + 1) * width)
        assert np.array_equal(gpt2["blocks"][name]["kernel"][1], names["h.1.attn.c_attn.weight"][:, columns])
        assert np.array_equal(gpt2["blocks"][name]["bias"][0], names["h.0.attn.c_attn.bias"][columns])
    assert np.array_equal(gpt2["blocks"]["attn_out"]["kernel"][1], names["h.1.attn.c_proj.weight"])
    assert np.array_equal(gpt2["wpe"], names["wpe.weight"])
    llama, names = pretrained.load(directories["llama"]).params, published_models.llama()
    ours = {"q": "self_attn.q_proj", "attn_out": "self_attn.o_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"}
    for module, theirs in ours.items():
        assert np.array_equal(llama["blocks"][module]["kernel"][1], names[f"model.layers.1.{theirs}.weight"].T)
    assert np.array_equal(llama["head"], names["lm_head.weight"].T)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_prefixes_and_what_is_no_parameter_change_nothing(directories, kind, tmp_path):
    """Shards with an index, names with or without prefix, and stored masks or frequencies give the same parameters."""
    config, make = published_models.MODELS[kind]
    plain, names = pretrained.load(directories[kind]), make()
    assert equal(pretrained.load(published_models.write_sharded(tmp_path / "shards", config, names, 3)).params, plain.params)
    if kind == "gpt2":
        other = {f"transformer.{name}": value for name, value in names.items()} | {"lm_head.weight": names["wte.weight"]}
        other |= {"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4)), "transformer.h.1.attn.masked_bias": np.array(-1e4)}
    else:
        other = {name.removeprefix("model."): value for name, value in names.items()}
        other |= {"layers.1.self_attn.rotary_emb.inv_freq": np.ones(3)}
    assert equal(pretrained.load(published_models.write(tmp_path / "other", config, other)).params, plain.params)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_files_are_kept_in_float32_unless_asked(directories, kind, tmp_path):
    """float16 and bfloat16 files load as the same values in float32; with dtype=bfloat16 they stay bfloat16."""
    config, make = published_models.MODELS[kind]
    exact = pretrained.load(directories[kind])
    for dtype in ("float16", "bfloat16"):
        loaded = pretrained.load(published_models.write(tmp_path / dtype, config, make(), dtype))
        assert equal(loaded.params, jax.tree.map(lambda x: np.asarray(x).astype(jnp.dtype(dtype)).astype("float32"), exact.params))
    kept = pretrained.load(tmp_path / "bfloat16", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept.params)} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(program(kept.cfg), kept.params, X_BL).dtype == jnp.float32
    if kind == "llama":
        rounded_BLV, exact_BLV = (program(model.cfg)(model.params, X_BL) for model in (kept, exact))
        assert 1e-4 < jnp.abs(rounded_BLV - exact_BLV).max() / jnp.std(exact_BLV) < 0.2


def test_what_is_recorded(directories, tmp_path):
    """BOS comes from the config, else from the tokenizer; the hash is that of the weight files' bytes."""
    loaded = pretrained.load(directories["gpt2"])
    assert (loaded.bos, loaded.bos_policy) == (7, "bos_token_id of config.json")
    assert (loaded.context, loaded.name) == (published_models.LENGTH, str(directories["gpt2"]))
    assert loaded.hash == hashlib.sha256((directories["gpt2"] / SINGLE).read_bytes()).hexdigest()
    config = {key: value for key, value in published_models.GPT2.items() if key != "bos_token_id"}
    other = pretrained.load(published_models.write_sharded(tmp_path, config, published_models.gpt2(), 2))
    assert (other.bos, other.bos_policy) == (published_models.VOCAB - 1, "the tokenizer's document end")
    assert other.hash == hashlib.sha256(b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.safetensors")))).hexdigest()
    assert other.tokenizer.encode("w3 w1").tolist() == [3, 1]


def test_old_and_new_spellings_of_rotary_positions_mean_the_same(tmp_path):
    """rope_theta with rope_scaling (Llama 3.1's file) equals rope_parameters; scaling changes the frequencies."""
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    config = {key: value for key, value in published_models.LLAMA.items() if key != "rope_theta"}
    spellings = {
        "old": dict(rope_theta=500.0, rope_scaling=dict(type="llama3", **scaling)),
        "new": dict(rope_parameters=dict(rope_type="llama3", rope_theta=500.0, **scaling)),
        "none": dict(rope_theta=500.0, rope_scaling=None),
    }
    write = lambda name: published_models.write(tmp_path / name, config | spellings[name], published_models.llama())
    cfgs = {name: pretrained.load(write(name)).cfg for name in spellings}
    assert cfgs["old"] == cfgs["new"] and cfgs["none"].rope_scaling is None
    freqs = {name: np.asarray(causal.llama.frequencies(cfg)) for name, cfg in cfgs.items()}
    # 32 positions hold 5.1 turns of the first wave, 0.64 of the second and 0.08 of the third.
    np.testing.assert_allclose(freqs["old"] / freqs["none"], [1.0, 1 / 8, 1 / 8])


def test_a_window_as_long_as_the_context_is_no_window(directories, tmp_path):
    """A Mistral model with a sliding window as long as its context loads as Llama."""
    given = published_models.LLAMA | dict(model_type="mistral", sliding_window=published_models.LENGTH)
    loaded = pretrained.load(published_models.write(tmp_path, given, published_models.llama()))
    plain = pretrained.load(directories["llama"])
    assert loaded.cfg == plain.cfg and equal(loaded.params, plain.params)


def test_a_hub_name_is_fetched_or_said_in_one_line(directories, monkeypatch):
    """A hub name fetches only a model's files; a failure gives one line with an alternative."""
    asked = []

    def fetch(name, allow_patterns, **_):
        asked.append((name, set(allow_patterns)))
        if name == "someone/gone":
            raise OSError("No network\nand a page of advice")
        return str(directories["gpt2"])

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=fetch))
    loaded = pretrained.load("gpt2-large")
    assert loaded.name == "gpt2-large" and equal(loaded.params, pretrained.load(directories["gpt2"]).params)
    assert asked == [("gpt2-large", {"config.json", "tokenizer.json", "model*.safetensors", INDEX})]
    said = {
        "someone/gone": r"\(No network\): download its config\.json.*give their directory",
        "/no/where": "no directory '/no/where'",
    }
    for name, pattern in said.items():
        with pytest.raises(ValueError, match=pattern) as caught:
            pretrained.load(name)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'tsdfm_jax\[hf\]'"):
        pretrained.load("gpt2-large")


def test_more_tokens_than_the_context_are_refused(directories):
    """A judge refuses text longer than its context."""
    for kind in KINDS:
        loaded = pretrained.load(directories[kind])
        with pytest.raises(ValueError, match="17 tokens are more than the 16"):
            causal.token_nll(loaded.cfg, loaded.params, jnp.zeros((1, 17), jnp.int32), loaded.bos)


def test_another_dtype_is_refused(directories):
    """A dtype other than float32 and bfloat16 is refused."""
    with pytest.raises(ValueError, match="dtype 'float64' is not one of float32, bfloat16"):
        pretrained.load(directories["gpt2"], dtype="float64")

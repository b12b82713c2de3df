"""Attention: every implementation gives one result, is chosen where it works, and is split over devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import NamedSharding, PartitionSpec

from tests import tiny
from tsdfm_jax.config import validation
from tsdfm_jax.experiments.planning import hlo
from tsdfm_jax.models import attention, causal, llama, transformer
from tsdfm_jax.runtime import mesh as meshes

CPU, TPU, HOPPER, AMPERE = (attention.Device(*d) for d in (("cpu",), ("tpu",), ("gpu", (9, 0)), ("gpu", (8, 6))))
OLD, ROCM = attention.Device("gpu", (7, 5)), attention.Device("gpu")


def drawn(*shapes, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


def plain(q_BLHd, k_BLGd, v_BLGd, causal):
    """softmax(q k^T / sqrt(d)) v, from the definition, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q_BLHd, k_BLGd, v_BLGd))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    score_BHLM = np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(q.shape[-1])
    if causal:
        score_BHLM = np.where(np.tril(np.ones(score_BHLM.shape[2:], bool)), score_BHLM, -np.inf)
    weight_BHLM = np.exp(score_BHLM - score_BHLM.max(-1, keepdims=True))
    return np.einsum("bhlm,bmhd->blhd", weight_BHLM / weight_BHLM.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("is_causal, groups", [(False, 2), (True, 1)])
def test_values(is_causal, groups):
    """XLA and splash give the definition's values, causal or not, with grouped keys too, and the same gradients."""
    given = drawn((1, 128, 2, 8), (1, 128, groups, 8), (1, 128, groups, 8), (1, 128, 2, 8))
    both = lambda compute: lambda *given: (lambda y, back: (y, *back(given[-1])))(*jax.vjp(compute, *given[:-1]))
    compute = (
        functools.partial(attention.xla, causal=is_causal),
        functools.partial(attention.splash, causal=is_causal, interpret=True),
    )
    wanted, found = (jax.jit(both(one))(*given) for one in compute)
    np.testing.assert_allclose(wanted[0], plain(*given[:3], is_causal), atol=2e-5)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    "where, dtype, size, length, chosen",
    [
        (CPU, "bfloat16", 64, 1024, "xla"),
        (HOPPER, "bfloat16", 64, 1000, "cudnn"),
        (HOPPER, "float32", 64, 1024, "xla"),
        (HOPPER, "bfloat16", 60, 1024, "xla"),
        (HOPPER, "bfloat16", 256, 1024, "cudnn"),
        (AMPERE, "bfloat16", 256, 1024, "xla"),
        (AMPERE, "bfloat16", 128, 1024, "cudnn"),
        (OLD, "bfloat16", 64, 1024, "xla"),
        (ROCM, "bfloat16", 64, 1024, "xla"),
        (TPU, "bfloat16", 64, 1024, "splash"),
        (TPU, "bfloat16", 64, 1000, "xla"),
        (TPU, "float32", 64, 1024, "xla"),
    ],
)
def test_auto(where, dtype, size, length, chosen):
    """`auto` chooses the implementation that device and network allow."""
    assert attention.resolve("auto", where, dtype, size, length) == chosen


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model.attention": "flash"}, "model.attention 'flash' is not one of auto, xla, cudnn, splash"),
        (
            {"model.attention": "cudnn"},
            "computes in bfloat16, not in float32: set model.dtype=bfloat16, or set model.attention=auto",
        ),
        ({"model.attention": "cudnn", "model.dtype": "bfloat16", "model.heads": 8}, "a multiple of 8 and at most 256, not 4"),
        (
            {"model.attention": "cudnn", "model.dtype": "bfloat16"},
            "model.attention 'cudnn' needs a GPU, and the devices are cpu: take such devices, or set model.attention=auto",
        ),
        ({"model.attention": "splash", "model.dtype": "bfloat16"}, "'splash' needs a TPU, and the devices are cpu"),
    ],
)
def test_what_cannot_be_is_one_line(changes, said):
    """An implementation that network or devices do not support is refused in one line before anything is computed."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        validation.validate(tiny.changed(**changes))
    assert "\n" not in str(caught.value)


@pytest.fixture
def nvidia(monkeypatch):
    """Make JAX and the choice of attention see a GPU with cuDNN."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention, "device", lambda: HOPPER)


def lowered(function, *given):
    return jax.jit(function).trace(*given).lower(lowering_platforms=("cuda",)).as_text()


NETWORK = transformer.TransformerConfig(vocab=8, blocks=2, width=16, heads=2, cond_width=4, dtype="bfloat16", remat="dots")
JUDGE = causal.CausalConfig(vocab=8, length=16, blocks=1, width=16, heads=2, dtype="bfloat16")
LLAMA = llama.LlamaConfig(vocab=8, length=16, blocks=1, width=16, heads=2, kv_heads=1, head_size=8, mlp_width=16, dtype="bfloat16")


@pytest.mark.parametrize("shape, local", [(dict(data=-1), "1x16x2x8"), (dict(data=2, fsdp=2, tensor=2), "2x16x1x8")], ids=str)
def test_cudnn_trains_a_network(nvidia, shape, local):
    """On GPUs a network's forward and backward pass use cuDNN, on each device's own windows and heads."""
    mesh = meshes.make_mesh(meshes.MeshConfig(**shape))
    params = meshes.abstract(mesh, lambda: transformer.init(jax.random.key(0), NETWORK, 16))
    x_BL = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=meshes.batch_sharding(mesh))
    loss = lambda params, x_BL: transformer.apply(NETWORK, params, x_BL, jnp.ones(x_BL.shape[0])).sum()
    text = lowered(meshes.jit(mesh, jax.grad(loss)), params, x_BL)
    assert [text.count(f"@__cudnn$fmhaSoftmax{way}(") for way in ("", "Backward")] == [2, 1]  # remat runs the block again
    assert f"(tensor<{local}xbf16>, tensor<{local}xbf16>, tensor<{local}xbf16>)" in text


def test_cudnn_reads_candidates(nvidia):
    """Under a vmap a device processes all candidates of its own windows in one call."""
    mesh = meshes.make_mesh(meshes.MeshConfig())
    params = meshes.abstract(mesh, lambda: transformer.init(jax.random.key(0), NETWORK, 16))
    cand_KBL = jax.ShapeDtypeStruct((3, 16, 16), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))))
    read = lambda params, cand_KBL: jax.vmap(lambda x_BL: transformer.apply(NETWORK, params, x_BL, jnp.ones(16)))(cand_KBL)
    text = lowered(meshes.jit(mesh, read), params, cand_KBL)
    assert text.count("@__cudnn$fmhaSoftmax(") == 1 and "(tensor<6x16x2x8xbf16>, tensor<6x16x2x8xbf16>" in text


@pytest.mark.parametrize("shape", [dict(data=2, fsdp=2, tensor=2), dict(tensor=8)], ids=str)
def test_each_device_has_its_own(shape):
    """Attention over a mesh equals attention in one piece; where axes do not divide windows and heads it is not split."""
    mesh = meshes.make_mesh(meshes.MeshConfig(**{"data": 1} | shape))
    q_BLHd, k_BLGd, v_BLGd = jax.device_put(drawn((4, 4, 4, 2), (4, 4, 2, 2), (4, 4, 2, 2)), meshes.replicated(mesh))
    compute, seen = functools.partial(attention.xla, causal=True), []
    note = lambda *given: (seen.append(given[0].shape), compute(*given))[1]
    found = meshes.jit(mesh, lambda *given: attention.by_device(note)(*given))(q_BLHd, k_BLGd, v_BLGd)
    np.testing.assert_allclose(found, compute(q_BLHd, k_BLGd, v_BLGd), atol=1e-6)
    assert seen == [(1, 4, 2, 2) if shape["tensor"] == 2 else (4, 4, 4, 2)]


def test_work_of_a_kernel_is_counted():
    """A kernel's FLOPs, which XLA does not count, are two products forward and seven back, from the shapes."""
    of = "bf16[8,12,1024,64]{3,2,1,0}"
    line = '  %splash_mha_{0}_residuals.1 = {1} custom-call(%a, %a, %b, %b, %b), custom_call_target="tpu_custom_call"\n'
    lines = "".join(line.format(kernel, of) for kernel in ("fwd", "dq", "dkv"))
    text = f"HloModule m\n\nENTRY %main () -> {of} {{\n  %a = s8[1]{{0}} parameter(0)\n  %b = {of} parameter(1)\n{lines}}}\n"
    module = hlo.Module(text)
    assert sum(module.flops(run) for run in module.runs()) == 2 * 9 * 8 * 12 * 1024**2 * 64


def test_cudnn_reads_judges(nvidia):
    """Causal networks use cuDNN for whole windows, and XLA for decoding token by token."""
    for cfg in (JUDGE, LLAMA):
        params = jax.eval_shape(lambda: meshes.unbox(causal.init(jax.random.key(0), cfg)))
        text = lowered(functools.partial(causal.logits, cfg), params, jnp.zeros((2, 16), int))
        assert "__cudnn$fmhaSoftmax" in text and "CAUSAL" in text
    cache = causal.empty_cache(JUDGE, 2)
    params = jax.eval_shape(lambda: meshes.unbox(causal.init(jax.random.key(0), JUDGE)))
    assert "cudnn" not in lowered(functools.partial(causal.decode, JUDGE), params, cache, jnp.zeros(2, int))

"""Transformers over patches: what an output depends on, what is born without effect, and in which type it is computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.ntm import small
from tsdfm_jax.models import patches
from tsdfm_jax.runtime import mesh as meshes

CFG = patches.PatchConfig(
    rows=2, columns=3, features=4, blocks=2, width=16, heads=4, kv_heads=2, cond_width=8, mlp_ratio=2, classes=3
)
CAUSAL = dataclasses.replace(CFG, causal=True, scale=True, times=2, classes=0)
ROWS, N, D = 3, 6, 4


def changed(cfg, **changes):
    return dataclasses.replace(cfg, **changes)


def given(cfg):
    """(x_BNd, time_BM, y) for a network."""
    y = jnp.arange(ROWS) % 3 if cfg.classes else small.normal(5, ROWS, cfg.vector) if cfg.vector else None
    return small.normal(1, ROWS, N, D), small.uniform(2, ROWS, cfg.times), y


def outputs(cfg, params, *inputs, **more):
    """The network's outputs as a tuple."""
    found = jax.jit(lambda *inputs: patches.apply(cfg, params, *inputs, **more))(*inputs)
    return found if isinstance(found, tuple) else (found,)


@functools.cache
def born():
    """(a network of three times and two outputs, its weights as they are born)."""
    cfg = changed(CFG, blocks=1, times=3, scale=True)
    return cfg, jax.jit(lambda: meshes.unbox(patches.init(jax.random.key(0), cfg)))()


def test_outputs_are_born_zero():
    """Both outputs have x's shape and are zero, whatever they are given; a network with one output has one."""
    cfg, params = born()
    for out in outputs(cfg, params, *given(cfg)):
        assert out.shape == (ROWS, N, D) and not out.any()
    assert len(outputs(CFG, small.network(CFG), *given(CFG))) == 1 and "log_scale" not in small.network(CFG)


def test_full_attention_sees_every_patch():
    """Every output depends on every patch."""
    params, (x_BNd, *told) = small.network(CFG), given(CFG)
    slope = jax.jit(jax.jacfwd(lambda x: patches.apply(CFG, params, x[None], *(a[:1] for a in told))[0]))(x_BNd[0])
    assert (np.abs(slope).max(axis=(1, 3)) > 0).all()


@pytest.mark.parametrize("dtype, atol", [("float32", 2e-5), ("bfloat16", 0.1)])
def test_cached_steps_are_the_parallel_outputs(dtype, atol):
    """Patch by patch with keys and values kept, a causal network gives its parallel outputs; in bfloat16 to bfloat16's rounding."""
    cfg = changed(CAUSAL, dtype=dtype)
    params, (x_BNd, time_BM, _) = small.network(cfg, size=1.0), given(cfg)
    whole, cache = outputs(cfg, params, x_BNd, time_BM), patches.empty_cache(cfg, ROWS)
    step = jax.jit(lambda x, cache, place: patches.apply(cfg, params, x, time_BM, cache=cache, place=place))
    for place in range(N):
        before = x_BNd[:, place - 1 : place] if place else jnp.full((ROWS, 1, D), jnp.nan)
        *found, cache = step(before, cache, place)
        for out, wanted in zip(found, whole):
            assert out.dtype == jnp.float32
            np.testing.assert_allclose(out[:, 0], wanted[:, place], atol=atol)
    assert cache.k.dtype == jnp.dtype(dtype) and cache.k.shape == (2, ROWS, N, 2, 4)


def test_a_hidden_condition_is_the_null_one():
    """Where keep_B is false the label has no effect, to the bit: the output is that of no label. Elsewhere it has."""
    for cfg in (CFG, changed(CFG, classes=0, vector=5)):
        params, (x_BNd, time_BM, y) = small.network(cfg), given(cfg)
        (none,), (all_kept,) = outputs(cfg, params, x_BNd, time_BM), outputs(cfg, params, x_BNd, time_BM, y)
        (some,) = outputs(cfg, params, x_BNd, time_BM, y, jnp.asarray([True, False, True]))
        np.testing.assert_array_equal(some[1], none[1])
        np.testing.assert_array_equal(some[::2], all_kept[::2])
        assert (np.abs(all_kept - none).max(axis=(1, 2)) > 1e-4).all()
        (other,) = outputs(cfg, params, x_BNd, time_BM, y[::-1] * 0, jnp.zeros(ROWS, bool))
        np.testing.assert_array_equal(other, none)


def test_later_times_are_born_without_effect():
    """A network told three times gives what it gives told one, to the bit: the others' weights start at zero, and can learn."""
    (wide, params), (x_BNd, time_BM, y) = born(), given(changed(CFG, times=3))
    one_time, new = changed(wide, times=1), params["conditioning"]
    drawn = small.network(one_time)
    three = drawn | {"conditioning": new | drawn["conditioning"]}
    found, wanted = outputs(wide, three, x_BNd, time_BM, y), outputs(one_time, drawn, x_BNd, time_BM[:, :1], y)
    for one, other in zip(found, wanted):
        np.testing.assert_array_equal(one, other)
    loss = lambda params: jnp.sum(patches.apply(wide, params, x_BNd, time_BM, y)[0] ** 2)
    slope = jax.jit(jax.grad(loss))(three)["conditioning"]
    assert all(float(jnp.abs(slope[f"time_{m}"]["out"]["kernel"]).max()) > 0 for m in range(3))


@pytest.mark.parametrize("changes", [{"remat": "dots"}, {"remat": "full", "unroll": 2}])
def test_recomputing_and_unrolling_change_nothing(changes):
    """Values and gradients stay within 1e-5."""
    params, inputs = small.network(CFG), given(CFG)
    both = [
        jax.value_and_grad(lambda p, cfg=cfg: jnp.mean(patches.apply(cfg, p, *inputs) ** 2))
        for cfg in (CFG, changed(CFG, **changes))
    ]
    (value, slope), (other, other_slope) = (jax.jit(one)(params) for one in both)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(other_slope)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_computes_and_outputs_are_float32():
    """bfloat16 gives float32 outputs within 3 % of float32's, and not the same."""
    params, inputs = small.network(CFG), given(CFG)
    (plain,), (found,) = outputs(CFG, params, *inputs), outputs(changed(CFG, dtype="bfloat16"), params, *inputs)
    off = np.abs(found - plain).max() / np.abs(plain).max()
    assert found.dtype == jnp.float32 and 1e-5 < off < 0.03


@pytest.mark.parametrize("changes, named", [
    (dict(heads=3), "model.heads"),
    (dict(width=24), "24"),
    (dict(kv_heads=3), "model.kv_heads 3"),
    (dict(remat="some"), "some"),
    (dict(dtype="float16"), "float16"),
    (dict(vector=2), "not both"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(changes, named):
    """One line that names key and value."""
    with pytest.raises(ValueError, match=named) as raised:
        changed(CFG, **changes)
    assert "\n" not in str(raised.value)

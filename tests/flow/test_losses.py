"""Losses and scores against their plain forms: values, gradients, precision and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.experiments.benchmark import plain
from tsdfm_jax.flow import losses, normaliser, path as paths

B, L = 2, 3


PLAIN = (plain.generalised_kl, plain.cross_entropy, plain.distillation_kl, plain.negative_log_posterior, plain.entropy)
OURS = (losses.generalised_kl, losses.cross_entropy, losses.distillation_kl, losses.negative_log_posterior, losses.entropy)


def arrays(path, scale=1.0, seed=0):
    """(logits, target, x_1, x_t, t): x_t equals x_1 at position 0; the target has a token of zero mass."""
    a, b, c, d = jax.random.split(jax.random.key(seed), 4)
    logits_BLV, target_BLV = (scale * jax.random.normal(key, (B, L, path.vocab)) for key in (a, b))
    target_BLV = jnp.where(jnp.arange(path.vocab)[None, None] == 1, -jnp.inf, target_BLV)
    x_1_BL = jax.random.randint(c, (B, L), 0, path.text_vocab)
    away_BL = jnp.full((B, L), path.mask_id) if path.masked else jax.random.randint(d, (B, L), 0, path.text_vocab)
    x_t_BL = jnp.where(jnp.arange(L)[None] == 0, x_1_BL, away_BL)
    target_BLV = paths.settled_logits(path, target_BLV, x_t_BL)
    return logits_BLV, target_BLV, x_1_BL, x_t_BL, jnp.array([0.1, 0.999])


def each(functions, path, logits_BLV, target_BLV, x_1_BL, x_t_BL, t_B):
    """Every loss and score at each position, in the order of `OURS`."""
    kl, cross_entropy, distillation, nll, entropy = functions
    path_losses = [f(path, logits_BLV, x_1_BL, x_t_BL, t_B) for f in (kl, cross_entropy)]
    scores = nll(path, logits_BLV, x_1_BL), entropy(path, logits_BLV, x_t_BL)
    return [*path_losses, distillation(path, target_BLV, logits_BLV, x_t_BL), *scores]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def with_gradients(functions, path, block, logits_BLV, weight_BL, *rest):
    """(values, gradients) of every loss and score, each position with its own weight; `block` tokens are read at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normaliser, "BLOCK", block)
        found, back = jax.vjp(lambda l: each(functions, path, l, *rest), logits_BLV)
    none = [jnp.zeros((B, L))] * len(found)
    return found, [back(none[:i] + [weight_BL] + none[i + 1 :])[0] for i in range(len(found))]


def close(found, expected, tolerance):
    """Assert that arrays are finite and equal to `tolerance` times the largest number of each."""
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.isfinite(a).all() and np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("block", [1024, 3])
def test_gradients_are_the_plain_forms(source, block):
    """Values and gradients equal the plain forms', at logit scales 1 and 10 and offsets, read at once or in blocks of 3.

    V = 7, so that the first block is one token, which may have zero mass; the mask token comes after the last block.
    """
    path, weight_BL = paths.Path(source=source, exponent=1.0, text_vocab=7), jnp.arange(1.0, 1 + B * L).reshape(B, L)
    for seed, (scale, offset) in enumerate([(1.0, 0.0), (10.0, 0.0), (10.0, 100.0), (10.0, -100.0)]):
        logits_BLV, *rest = arrays(path, scale, seed)
        found, gradients = with_gradients(OURS, path, block, logits_BLV + offset, weight_BL, *rest)
        expected, plain = with_gradients(PLAIN, path, 0, logits_BLV + offset, weight_BL, *rest)
        close(found, expected, 1e-6)
        close(gradients, plain, 1e-6)


def exact(path, logits_BLV, target_BLV, x_1_BL, x_t_BL, t_B):
    """Every loss and score in float64 numpy, in the order of `OURS`."""
    cut = lambda l: np.asarray(l, np.float64)[..., : path.text_vocab]
    normal = lambda l: cut(l) - np.log(np.exp(cut(l)).sum(axis=-1, keepdims=True))
    logp, free, same = normal(logits_BLV), np.asarray(paths.free_BL(path, x_t_BL)), np.asarray(x_t_BL == x_1_BL)
    at_1 = np.take_along_axis(logp, np.asarray(x_1_BL)[..., None], axis=-1)[..., 0]
    kept = np.minimum(np.asarray(x_t_BL), path.text_vocab - 1)[..., None]
    at_t = 1.0 * same if path.masked else np.exp(np.take_along_axis(logp, kept, axis=-1)[..., 0])
    kl = -np.asarray(paths.rate(path, t_B), np.float64)[:, None] * (at_t - same + np.where(same, 0.0, at_1))
    with np.errstate(divide="ignore", invalid="ignore"):
        logq = normal(target_BLV)
        divergence = np.nan_to_num(np.exp(logq) * (logq - logp)).sum(axis=-1)
    entropy = -(np.exp(logp) * logp).sum(axis=-1)
    return [kl, np.where(free, -at_1, 0.0), np.where(free, divergence, 0.0), -at_1, np.where(free, entropy, 0.0)]


@pytest.mark.parametrize("source", paths.SOURCES)
def test_gradients_are_slopes(source):
    """Values and gradients equal an independent float64 implementation and its central differences."""
    path, weight_BL, step = paths.Path(source=source, exponent=1.0, text_vocab=7), jnp.ones((B, L)), 1e-5
    logits_BLV, *rest = arrays(path, seed=5)
    found, gradients = with_gradients(OURS, path, 3, logits_BLV, weight_BL, *rest)
    close(found, exact(path, logits_BLV, *rest), 1e-5)
    slopes = np.zeros((len(OURS), *logits_BLV.shape))
    for v in range(path.vocab):
        moved = step * (np.arange(path.vocab) == v)
        ends = [exact(path, np.asarray(logits_BLV, np.float64) + sign * moved, *rest) for sign in (1, -1)]
        slopes[..., v] = (np.array(ends[0]) - np.array(ends[1])) / (2 * step)
    close(gradients, slopes, 1e-5)


def test_gradients_in_bfloat16():
    """bfloat16 logits are computed in float32, and their gradient is the float32 gradient, rounded."""
    path, weight_BL = paths.Path(source="mask", exponent=1.0, text_vocab=7), jnp.ones((B, L))
    logits_BLV, *rest = arrays(path)
    logits_BLV = logits_BLV.astype(jnp.bfloat16)
    found, gradients = with_gradients(OURS, path, 3, logits_BLV, weight_BL, *rest)
    expected, wide = with_gradients(OURS, path, 3, logits_BLV.astype(jnp.float32), weight_BL, *rest)
    close(found, expected, 1e-6)
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    close(gradients, [g.astype(jnp.bfloat16) for g in wide], 1e-6)


@pytest.mark.parametrize("offset", [-100.0, 0.0, 100.0])
def test_precision_over_a_large_vocabulary(offset):
    """At V = 50,257 and any offset, entropies of 0.01 to 10 nats are right to 1e-5 (relative) plus 3e-7 nats, log p to 1e-6."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=50_257)
    noise_LV = np.random.default_rng(0).normal(size=(6, path.vocab))
    noise_LV[:, 7] += [0.0, 12.0, 14.0, 16.0, 18.0, 19.0]  # one token takes more and more of the mass
    logits_BLV = jnp.asarray(noise_LV + offset, jnp.float32)[None]
    wide_LV = np.asarray(logits_BLV[0], np.float64)
    logp_LV = wide_LV - wide_LV.max() - np.log(np.exp(wide_LV - wide_LV.max()).sum(axis=-1, keepdims=True))
    entropy_L = -(np.exp(logp_LV) * logp_LV).sum(axis=-1)
    assert entropy_L.max() > 10 and entropy_L.min() < 0.01
    x_BL = jnp.full((1, 6), 3)
    np.testing.assert_allclose(losses.entropy(path, logits_BLV, x_BL)[0], entropy_L, rtol=1e-5, atol=3e-7)
    np.testing.assert_allclose(losses.negative_log_posterior(path, logits_BLV, x_BL)[0], -logp_LV[:, 3], rtol=1e-6)


def test_a_frozen_target_has_no_gradient():
    """The distillation loss has zero gradient with respect to its target's logits."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=7)
    logits_BLV, target_BLV, _, x_t_BL, _ = arrays(path)
    assert (jax.grad(lambda q: losses.distillation_kl(path, q, logits_BLV, x_t_BL).sum())(target_BLV) == 0).all()


def arrays_of_logits(functions, which):
    """Peak temporary memory of a loss's gradient through a head, in units of the logits' size; V is large, all else small."""
    path, rows, width = paths.Path(source="uniform", exponent=1.0, text_vocab=30_000), (2, 8), 2
    like = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)

    def loss(head, target_BLV, x_1_BL, x_t_BL, t_B):
        logits_BLV = (head[1] @ head[0]).reshape(*rows, path.vocab)
        return each(functions, path, logits_BLV, target_BLV, x_1_BL, x_t_BL, t_B)[which].mean()

    head, x_BL = (like(width, path.vocab), like(16, width)), like(*rows, dtype=jnp.int32)
    lowered = jax.jit(jax.value_and_grad(loss)).lower(head, like(*rows, path.vocab), x_BL, x_BL, like(2))
    return lowered.compile().memory_analysis().temp_size_in_bytes / (4 * 16 * path.vocab)


@pytest.mark.parametrize("which", range(3), ids=["kl", "cross_entropy", "distillation"])
def test_no_second_array_of_the_logits_size(which):
    """A loss's gradient through a head stores the logits, their gradient and no third array of that size; the plain form does."""
    assert arrays_of_logits(OURS, which) < 2.3 < arrays_of_logits(PLAIN, which)

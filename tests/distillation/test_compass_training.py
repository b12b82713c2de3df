"""The noise-contrastive loss does not depend on how its batch is split into microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.distillation import compass_training
from tsdfm_jax.models import energy as energies, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states

V, LENGTH, ROWS = 7, 6, 16
CFG = transformer.TransformerConfig(vocab=V, blocks=1, width=16, heads=2, cond_width=8, mlp_ratio=2)


def fixed_pairs():
    """Sixteen pairs, with from no to all positions that jumped."""
    rng = np.random.default_rng(0)
    negative_BL, positive_BL = (rng.integers(0, V, (ROWS, LENGTH)).astype(np.int32) for _ in range(2))
    left_BL = np.arange(LENGTH)[None] < (np.arange(ROWS) % (LENGTH + 1))[:, None]
    return negative_BL, np.where(left_BL, positive_BL, negative_BL), left_BL, rng.random(ROWS).astype(np.float32)


def one_update(accumulate):
    """(metrics, weights after one update) of the loss on these pairs, which need no random key."""
    counted = compass_training.counted_nce(None, None, CFG, None)
    loss = states.Counted(prepare=lambda key, pairs: pairs, count=counted.count, loss=counted.loss)
    mesh = meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])
    optimiser = states.OptimiserConfig(learning_rate=0.02, warmup=1, steps=8, accumulate=accumulate)
    learner = states.learner(lambda: energies.init(jax.random.key(0), CFG, LENGTH), loss, optimiser, mesh, 0)
    state, metrics = learner.step(learner.create(), meshes.put_batch(mesh, fixed_pairs()))
    return jax.device_get(metrics), jax.device_get(state.params)


def test_one_four_and_sixteen_microbatches_are_one():
    """Loss, its parts, the gradient's norm and the weights after an update are those of the whole batch."""
    whole, params = one_update(1)
    for accumulate in (4, 16):
        metrics, split_params = one_update(accumulate)
        for name in ("loss", "loss_token", "loss_sequence", "grad_norm"):
            np.testing.assert_allclose(metrics[name], whole[name], rtol=2e-5, err_msg=f"{name} of {accumulate}")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), split_params, params)


def test_a_single_batch_has_the_ratio_over_its_jumps():
    """The token loss of a batch is the mean over the positions that jumped, and 0 where none did."""
    pairs = [jnp.asarray(part) for part in fixed_pairs()]
    params = meshes.unbox(energies.init(jax.random.key(0), CFG, LENGTH))
    scores = [energies.apply(CFG, params, x_BL, pairs[3])[1] for x_BL in pairs[:2]]
    each_BL = np.logaddexp(0, scores[1]) + np.logaddexp(0, -np.asarray(scores[0]))
    _, parts = compass_training.pair_loss(CFG, params, pairs, pairs[2].sum())
    assert float(parts["loss_token"]) == pytest.approx(each_BL[np.asarray(pairs[2])].mean(), rel=1e-5)
    counted = compass_training.counted_nce(None, None, CFG, None)
    still = states.Counted(prepare=lambda key, pairs: pairs, count=counted.count, loss=counted.loss)
    nothing = [pairs[0], pairs[0], jnp.zeros_like(pairs[2]), pairs[3]]
    assert still(None, params, nothing)[1]["loss_token"] == 0

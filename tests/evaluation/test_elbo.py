"""The held-out bound counts every window once, whatever the batch, and stops when asked."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.evaluation import elbo
from tsdfm_jax.flow import losses, path as paths
from tsdfm_jax.runtime import mesh as meshes, signals

V, LENGTH, BATCH = 11, 6, 16
PATH = paths.Path(source="uniform", exponent=1.0, text_vocab=V)
TABLE_VV = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)


def posterior(params, x_BL, t_B):
    return params * jnp.asarray(TABLE_VV)[x_BL] * t_B[:, None, None]


def windows_of(count):
    return np.random.default_rng(1).integers(0, V, (count, LENGTH)).astype(np.int32)


def measure(count, mesh=None):
    mesh = mesh or meshes.make_mesh(meshes.MeshConfig())
    return elbo.heldout(posterior, PATH, mesh, windows_of(count), BATCH)


def batch_nats_B(x_BL, number):
    """Nats per token of each row, straight from the loss."""
    key = jax.random.fold_in(jax.random.key(0), number)
    return np.asarray(losses.elbo(key, PATH, lambda x_BL, t_B: posterior(1.0, x_BL, t_B), jnp.asarray(x_BL)).mean(axis=1))


@pytest.mark.parametrize("count", [5, 16, 39])
def test_every_window_counts_once(monkeypatch, count):
    """With the window's own number as its loss the bound is the mean of all numbers, also of those in a part of a batch."""
    monkeypatch.setattr(losses, "elbo", lambda key, path, posterior, x_1_BL: x_1_BL.astype(jnp.float32))
    numbers_NL = np.broadcast_to(np.arange(count, dtype=np.int32)[:, None] ** 2, (count, LENGTH))
    found = elbo.heldout(posterior, PATH, meshes.make_mesh(meshes.MeshConfig()), numbers_NL, BATCH)(1.0)
    assert found == pytest.approx(np.mean(np.arange(count) ** 2), rel=1e-6)


def test_a_part_of_a_batch_is_the_mean_over_its_rows():
    """The bound of 39 windows is the mean over 39 windows of each one's own bound, with the last batch's padding left out."""
    x_NL, rows = windows_of(39), []
    filled_BL = np.concatenate([x_NL[32:], np.repeat(x_NL[-1:], 9, axis=0)])
    for r in range(elbo.ROUNDS):
        rows += [batch_nats_B(x_NL[:16], 2 * r), batch_nats_B(x_NL[16:32], 2 * r + 1)]
        rows += [batch_nats_B(filled_BL, 2 * elbo.ROUNDS + r)[:7]]
    assert sum(map(len, rows)) == 39 * elbo.ROUNDS
    assert measure(39)(1.0) == pytest.approx(np.concatenate(rows).mean(), rel=1e-6)
    assert measure(39)(1.0) != pytest.approx(measure(32)(1.0), rel=1e-4)


def test_whole_batches_have_the_numbers_they_had():
    """The bound of whole batches is the mean over batches numbered through the rounds, on eight devices as on one."""
    x_NL = windows_of(32)
    means = [batch_nats_B(x_NL[16 * i : 16 * i + 16], 2 * r + i).mean() for r in range(elbo.ROUNDS) for i in range(2)]
    assert measure(32)(1.0) == pytest.approx(np.mean(means), rel=1e-6)
    alone = meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])
    assert measure(39, alone)(1.0) == pytest.approx(measure(39)(1.0), rel=1e-6)


def test_a_long_bound_stops_when_asked():
    """A stop signal ends the bound between two batches, in one line; the next call works again."""
    bound = measure(39)
    with pytest.raises(signals.Interrupted, match="stopped; the same command goes on from there"), signals.stopping():
        os.kill(os.getpid(), signals.HANDLED[0])
        bound(1.0)
    assert np.isfinite(bound(1.0))

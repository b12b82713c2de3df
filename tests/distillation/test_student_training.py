"""The states of the endpoint loss: the recorded ones, or fresh noise on the endpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tsdfm_jax.config import settings, validation
from tsdfm_jax.distillation import student_training
from tsdfm_jax.flow import path as paths

B, L = 4000, 8


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fresh_states_are_the_paths_own(source, share):
    """The configured share of states is drawn afresh from the path at its time; the others are the recorded ones."""
    config = tiny.changed(**{"flow.source": source, "student.fresh": share})
    path = settings.path(config, 12)
    recorded_BL, x_1_BL, t_B = jnp.full((B, L), 5), jnp.full((B, L), 7), jnp.where(jnp.arange(B) % 2, 0.25, 0.75)
    found_BL = np.asarray(student_training.with_fresh_noise(config, path, jax.random.key(0), recorded_BL, x_1_BL, t_B))
    kept_B = (found_BL == 5).all(axis=1)
    assert kept_B.mean() == pytest.approx(1.0 - share, abs=0.04)
    for t in (0.25, 0.75):
        fresh_XL = found_BL[~kept_B & (np.asarray(t_B) == t)]
        if share:  # under the uniform source, noise is sometimes that token too
            by_chance = 0.0 if path.masked else (1.0 - t) / path.text_vocab
            assert (fresh_XL == 7).mean() == pytest.approx(t + by_chance, abs=0.03)
            assert not path.masked or set(np.unique(fresh_XL)) == {7, path.mask_id}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_loss_reads_what_it_says(share):
    """With student.fresh = 0 the network sees recorded states; with 1 it sees none of them."""
    config = tiny.changed(**{"student.fresh": share})
    path, seen = settings.path(config, 12), []

    def network(params, x_BL, t_B, h_B, key):
        seen.append(x_BL)
        return jnp.zeros((*x_BL.shape, path.vocab))

    states_BSL = jnp.broadcast_to(jnp.array([5, 5, 5, 5, 7])[None, :, None], (64, 5, L))
    loss = student_training.endpoint_loss(config, path, network, jax.random.key(1), None, {"states": states_BSL})
    assert np.isfinite(loss) and bool((seen[0] == 5).all(axis=1).any()) == (share == 0.0)


def test_a_share_that_is_none():
    """A student.fresh outside 0 to 1 is refused."""
    with pytest.raises(ValueError, match="student.fresh 1.5 is no share"):
        validation.validate(tiny.changed(**{"student.fresh": 1.5}))

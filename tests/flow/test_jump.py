"""Each jump's law against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tsdfm_jax.flow import jump, path as paths

P = np.array([0.1, 0.6, 0.3])
N = 30_000


def drawn(path, kind, x, t, h, seed=0):
    logits = jnp.log(jnp.array(np.append(P, 0.5) if path.masked else P, jnp.float32))
    key_B = jax.random.split(jax.random.key(seed), N)
    x_BL, full = jnp.full((N, 1), x), lambda v: jnp.full((N,), v, jnp.float32)
    move = jump.prepare(path, kind, jnp.broadcast_to(logits, (N, 1, path.vocab)), x_BL, full(t), full(h))
    return jump.land(key_B, move)


def law(path, kind, x, t, h):
    """The closed form of method.md's jumps in float64: the law of a position that is at x."""
    kappa = lambda s: s**path.exponent
    r = (1 - kappa(t + h)) / (1 - kappa(t))
    here = np.eye(path.vocab)[x]
    p = np.append(P, 0.0) if path.masked else P
    if path.masked and x != path.mask_id:
        return here
    if kind == "bridge" or t + h >= 1:
        return r * here + (1 - r) * p
    rate = path.exponent * t ** (path.exponent - 1) / (1 - kappa(t))
    stay = r ** (1 - p[x]) if kind == "cumulative" else np.exp(-h * rate * (1 - p[x]))
    elsewhere = p * (1 - here)
    return stay * here + (1 - stay) * elsewhere / elsewhere.sum()


@pytest.mark.parametrize("kind", jump.JUMPS)
@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("t, h", [(0.0, 0.25), (0.5, 0.25), (0.5, 0.5), (0.0, 1.0)])
def test_law(kind, source, t, h):
    """bridge, cumulative and euler follow their defined transition probabilities, the last step included."""
    path = paths.Path(source=source, exponent=2.0, text_vocab=3)
    for x in range(path.vocab):
        chance.assert_law(drawn(path, kind, x, t, h)[0], law(path, kind, x, t, h))


def test_all_agree_for_small_steps():
    """As h goes to 0 the three jumps agree: their probabilities of a change differ by o(h)."""
    path = paths.Path(source="uniform", exponent=2.0, text_vocab=3)
    for h, gap in ((1e-2, 5e-3), (1e-4, 5e-5)):
        laws = [law(path, kind, 0, 0.4, h) for kind in jump.JUMPS]
        assert max(abs(a - b).max() for a in laws for b in laws) < gap * h * 100


@pytest.mark.parametrize("kind", ["cumulative", "euler"])
def test_at_most_one_jump(kind):
    """A position that leaves lands on another token: before the last step, `left` means that the token changed."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=3)
    x, left = drawn(path, kind, 1, 0.3, 0.4)
    assert ((np.asarray(x) != 1) == np.asarray(left)).all() and left.any()


@pytest.mark.parametrize("kind", jump.JUMPS)
@pytest.mark.parametrize("source", paths.SOURCES)
def test_a_sample_is_its_own(kind, source):
    """A sequence's jump depends on its own key, not on the other sequences of the batch."""
    path = paths.Path(source=source, exponent=1.0, text_vocab=7)
    key_B = lambda: jax.random.split(jax.random.key(0), 6)
    logits = jax.random.normal(jax.random.key(1), (6, 5, path.vocab))
    x = paths.sample_source(jax.random.split(jax.random.key(2), 6), path, 5)
    t, h = jnp.full((6,), 0.25), jnp.full((6,), 0.5)
    whole, _ = jump.land(key_B(), jump.prepare(path, kind, logits, x, t, h))
    for i in (0, 3, 5):
        part, _ = jump.land(key_B()[i : i + 1], jump.prepare(path, kind, logits[i : i + 1], x[i : i + 1], t[:1], h[:1]))
        assert (part[0] == whole[i]).all()

"""The autoregressive model: its size, cached decoding, the law of its texts, and independence of the batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance, tiny
from tsdfm_jax.config import settings
from tsdfm_jax.flow import sampler
from tsdfm_jax.inference import sampling
from tsdfm_jax.models import causal, sizes, transformer
from tsdfm_jax.runtime import mesh as meshes

V, LENGTH, BOS = 3, 4, 1
CFG = causal.CausalConfig(vocab=V, length=LENGTH, blocks=2, width=8, heads=2)


@pytest.fixture(scope="module")
def params():
    """Weights far from their initial values, so that the context matters."""
    born = meshes.unbox(causal.init(jax.random.key(0), CFG))
    return jax.tree.map(lambda a: a + 0.4 * jax.random.normal(jax.random.key(a.size), a.shape), born)


@pytest.mark.parametrize("source", ["uniform", "mask"])
def test_sizes_are_those_of_the_networks(source):
    """Counted sizes equal the networks' parameters; the default number of blocks gives the size nearest the teacher's."""
    c = tiny.changed(**{"flow.source": source, "autoregressive.width": 24, "model.blocks": 9})
    cfg = settings.network(c, settings.path(c, 50).vocab)
    real = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg, c.data.length))
    assert sizes.transformer(cfg) == transformer.parameters(real)
    own = settings.autoregressive(c, 50)
    counts = []
    for blocks in range(1, own.blocks + 3):
        with c.unlocked():
            c.autoregressive.blocks = blocks
        made = settings.autoregressive(c, 50)
        real = jax.eval_shape(lambda: causal.init(jax.random.key(0), made))
        counts.append(sizes.causal(made))
        assert made.blocks == blocks and transformer.parameters(real) == counts[-1]
    assert 1 < own.blocks == 1 + int(np.argmin(np.abs(np.array(counts) - sizes.transformer(cfg))))
    paper = transformer.TransformerConfig(vocab=50257, blocks=12, width=768, heads=12, cond_width=128)
    assert sizes.transformer(paper) == 169_625_681


def test_cached_decoding_is_the_whole_network(params):
    """Decoding token by token with cached keys and values gives the logits of one full pass."""
    x_BL = jax.random.randint(jax.random.key(1), (5, LENGTH), 0, V)
    context_BL = jnp.concatenate([jnp.full((5, 1), BOS), x_BL[:, :-1]], axis=1)
    cache, found = causal.empty_cache(CFG, 5), []
    for i in range(LENGTH):
        logits_BV, cache = causal.decode(CFG, params, cache, context_BL[:, i])
        found.append(logits_BV)
    np.testing.assert_allclose(jnp.stack(found, axis=1), causal.logits(CFG, params, context_BL), atol=1e-5)
    assert np.abs(np.diff(found, axis=0)).max() > 0.1


def decoder(batch, mesh=None, **cfg):
    decode = lambda params, cache, x_B: causal.decode(CFG, params, cache, x_B)
    mesh = mesh or meshes.make_mesh(meshes.MeshConfig())
    return sampling.Decoder(decode, CFG, BOS, mesh, batch, sampler.SamplerConfig(**cfg))


def joint_law(params, temperature=1.0, top_p=1.0):
    """The probability of every text, the product of its tokens' probabilities, in NumPy."""
    texts = np.array(list(itertools.product(range(V), repeat=LENGTH)))
    context = np.concatenate([np.full((len(texts), 1), BOS), texts[:, :-1]], axis=1)
    p = np.exp(np.asarray(causal.logits(CFG, params, context), np.float64) / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-p, axis=-1)
        ranked = np.take_along_axis(p, order, axis=-1)
        kept = np.take_along_axis(ranked.cumsum(axis=-1) - ranked < top_p, np.argsort(order, axis=-1), axis=-1)
        p = p * kept / (p * kept).sum(axis=-1, keepdims=True)
    return np.take_along_axis(p, texts[..., None], axis=-1)[..., 0].prod(axis=1)


@pytest.mark.parametrize("cfg", [{}, {"temperature": 0.7, "top_p": 0.8}], ids=["plain", "sharpened"])
def test_the_law_of_its_texts(params, cfg):
    """Texts follow the network's exact joint law; with temperature and top-p, the law of the sharpened tokens."""
    law = joint_law(params, **cfg)
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-6)
    x_NL, _ = decoder(4096, **cfg)(params, 3, 16_384, LENGTH)
    chance.assert_law(x_NL @ V ** np.arange(LENGTH)[::-1], law)


def test_a_text_is_its_seed_its_number_and_what_is_given(params):
    """A text does not depend on batch, devices or a watcher; given tokens stay; a watcher sees the text so far."""
    given_NL = np.full((11, LENGTH), -1)
    given_NL[::2, :2] = (2, 0)
    seed_N = np.arange(11) % 3
    x_NL, _ = decoder(16)(params, seed_N, 11, LENGTH, given_NL=given_NL)
    assert (x_NL[::2, :2] == (2, 0)).all() and len(np.unique(x_NL, axis=0)) > 4
    one, seen = meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1]), []
    watch = lambda first, step, x_BL: seen.append((first, step, x_BL))
    alone, _ = decoder(3, one)(params, seed_N, 11, LENGTH, given_NL=given_NL, on_state=watch)
    assert (alone == x_NL).all()
    assert [(first, step, x_BL.shape) for first, step, x_BL in seen[-5:]] == [(9, step, (2, step)) for step in range(LENGTH + 1)]
    assert all((x_BL == x_NL[first : first + 3, :step]).all() for first, step, x_BL in seen)

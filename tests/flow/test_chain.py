"""Chains, trajectories and the sampler: each scan equals its Python loop, and each chain has the right jumps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.flow import chain, jump, lookahead, path as paths, sampler, shaping

B, L = 4, 6
TABLE = jax.random.normal(jax.random.key(9), (8, 8))


def posterior_of(path):
    def posterior(x_BL, t_B, h_B):
        table = TABLE[: path.vocab, : path.vocab]
        return table[x_BL] + jnp.roll(table[x_BL], 1, axis=1) * t_B[:, None, None] + h_B[:, None, None]

    return posterior


def energy(x_BL, t_B):
    score = jnp.cos(2.0 * x_BL + t_B[:, None])
    return score.mean(axis=-1), score


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), B)


def a_path(source):
    return paths.Path(source=source, exponent=1.0, text_vocab=6)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("k", [1, 3])
def test_trajectory_is_a_python_loop(source, k):
    """The scan over midpoints gives bit for bit what a loop of posterior, move and shaped jump gives."""
    path, cfg, steps = a_path(source), shaping.ShapingConfig(candidates=k), 4
    x_0 = paths.sample_source(keys(1), path, L)
    found = chain.trajectory(keys(), path, "bridge", posterior_of(path), x_0, steps, energy, cfg)
    x = x_0
    for i in range(steps):
        t, h = jnp.full((B,), i / steps), jnp.full((B,), 1 / steps)
        move = jump.prepare(path, "bridge", posterior_of(path)(x, t, h), x, t, h)
        choice = shaping.shaped_jump(paths.fold(keys(), i), move, t + h, energy, cfg)
        x = choice.x_BL
        assert (found.state_BSL[:, i + 1] == x).all() and (found.index_BS[:, i] == choice.index_B).all()
        np.testing.assert_allclose(found.energy_BSK[:, i], choice.energy_BK, rtol=1e-5)
    assert (found.state_BSL[:, 0] == x_0).all() and (x < 6).all()


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("kind", jump.JUMPS)
def test_sampler_is_a_python_loop(source, kind):
    """The compiled loop, the scan that keeps its states, and a Python loop give the same text, without a mask token."""
    path, cfg, steps = a_path(source), sampler.SamplerConfig(jump=kind, temperature=0.8, top_p=0.9), 5
    given, fixed = jnp.zeros((B, L), int), jnp.zeros((B, L), bool)
    whole = jax.jit(lambda n: sampler.sample(keys(), path, posterior_of(path), n, given, fixed, cfg))(steps)
    states = sampler.states(keys(), path, posterior_of(path), steps, given, fixed, cfg)
    x, steps_B = sampler.start(keys(), path, given, fixed)
    for i in range(steps):
        x = sampler.step(steps_B, path, posterior_of(path), x, i, steps, given, fixed, cfg)
        assert (states[i + 1] == x).all()
    assert (whole == x).all() and (x < 6).all()


def test_given_tokens_stay():
    """Tokens of prompts and infills stay fixed from x_0 to the final text."""
    path, given = a_path("uniform"), jnp.tile(jnp.array([[5, 0, 3, 0, 0, 1]]), (B, 1))
    fixed = jnp.tile(jnp.array([[True, False, True, False, False, True]]), (B, 1))
    states = sampler.states(keys(), path, posterior_of(path), 4, given, fixed, sampler.SamplerConfig())
    assert (states[:, :, [0, 2, 5]] == jnp.array([5, 3, 1])[None, None]).all()


def test_top_p_keeps_the_smallest_nucleus():
    """Top-p keeps the fewest tokens with the required mass, the token that crosses it included."""
    logits = jnp.log(jnp.array([[[0.5, 0.1, 0.3, 0.1]]]))
    kept = lambda p: np.isfinite(sampler.sharpen(logits, sampler.SamplerConfig(top_p=p)))[0, 0].tolist()
    assert kept(0.4) == [True, False, False, False]
    assert kept(0.6) == [True, False, True, False]
    assert kept(1.0) == [True] * 4


def test_nucleus_of_many_tokens():
    """At a large V the nucleus is the one found by sorting, with equal logits together and no token of zero mass."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=[[[1.0]], [[8.0]], [[0.01]]], size=(3, 2, 1001)).astype(np.float32)
    logits[:, 1] = np.round(logits[:, 1] * 4) / 4  # many ties
    logits[..., -1] = -np.inf
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    for top_p in (0.05, 0.5, 0.9, 0.999):
        kept = np.asarray(sampler.nucleus(jnp.asarray(logits), top_p))
        for row, mass, got in zip(logits.reshape(-1, 1001), p.reshape(-1, 1001), kept.reshape(-1, 1001)):
            held = np.array([mass[row >= logit].sum() for logit in row])
            lowest = row[held >= top_p].max()
            assert abs(held - top_p).min() > 1e-6 and (got == (row >= lowest)).all()


@pytest.mark.parametrize("name", chain.CHAINS)
@pytest.mark.parametrize("k", [1, 3])
def test_chain_by_hand(name, k):
    """Each chain makes its jumps: fsdfm from the last landing, classical from x_t, heun one full step, sdtt one half step."""
    path, cfg = a_path("uniform"), shaping.ShapingConfig(candidates=k)
    x, t, h = paths.sample_source(keys(1), path, L), jnp.full((B,), 0.25), jnp.full((B,), 0.5)
    found = chain.run(keys(), path, "bridge", name, posterior_of(path), x, t, h, energy, cfg)
    plan = {  # start (0 is x_t, i the i-th midpoint), depart, width; evaluated at
        "fsdfm": [(0, 0.25, 0.25, 0.25), (1, 0.5, 0.25, 0.5), (2, 0.5, 0.25, 0.5)],
        "classical": [(0, 0.25, 0.25, 0.25), (0, 0.25, 0.25, 0.5), (0, 0.25, 0.5, 0.5)],
        "heun": [(0, 0.25, 0.5, 0.25)],
        "sdtt": [(0, 0.25, 0.25, 0.25)],
    }[name]
    arrive = {"fsdfm": [0.5, 0.5, 0.75], "classical": [0.5, 0.5, 0.75], "heun": [0.75], "sdtt": [0.5]}[name]
    full, states, last, left = (lambda v: jnp.full((B,), v)), [x], x, None
    for i, (start, depart, width, at) in enumerate(plan):
        move = jump.prepare(path, "bridge", posterior_of(path)(last, full(at), h / 2), states[start], full(depart), full(width))
        choice = shaping.shaped_jump(paths.fold(keys(), i), move, full(arrive[i]), energy, cfg)
        last, left = choice.x_BL, choice.left_BL if i == 0 else left
        states.append(last)
        assert (found.x_BSL[:, i] == last).all()
    logits = [posterior_of(path)(s, full(at), h / 2) for s, at in zip(states, [0.25] + arrive)]
    if name == "sdtt":
        assert (found.left_BSL is None) == (left is None) == (k > 1)
        left = jnp.broadcast_to(jnp.arange(L)[None] % 2 == 0, (B, L)) if left is None else left
        target = chain.target_logits(path, name, posterior_of(path), x, found.x_BSL, t, h, left[:, None])
        np.testing.assert_allclose(target, jnp.where(left[..., None], *logits), rtol=1e-5)
        return
    weights = [1 / 2, 1 / 2] if name == "heun" else [1 / 6, 2 / 6, 2 / 6, 1 / 6]
    target = chain.target_logits(path, name, posterior_of(path), x, found.x_BSL, t, h)
    np.testing.assert_allclose(target, sum(w * l for w, l in zip(weights, logits)), rtol=1e-5)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("name", chain.CHAINS)
def test_pairs_differ_only_in_their_landings(name, source):
    """The positive has the data's token where the chain has landed, and x_t's token everywhere else."""
    path = a_path(source)
    x_1 = jax.random.randint(jax.random.key(3), (B, L), 0, 6)
    t, h = jnp.full((B,), 0.25), jnp.full((B,), 0.5)
    x_t = paths.sample_xt(keys(1), path, x_1, t)
    negative, positive, left = chain.blind_pairs(keys(), path, "bridge", name, posterior_of(path), x_t, x_1, t, h)
    assert (jnp.where(left, positive, -1) == jnp.where(left, x_1[:, None], -1)).all()
    assert (jnp.where(left, 0, negative) == jnp.where(left, 0, x_t[:, None])).all()
    assert (jnp.where(left, 0, positive) == jnp.where(left, 0, x_t[:, None])).all()
    assert left.any() and not left.all()
    landed = jnp.zeros((B, L), bool)  # where `bridge` jumps does not depend on the posterior
    for i, link in enumerate(chain.CHAINS[name].links):
        move = jump.prepare(path, "bridge", jnp.zeros((B, L, path.vocab)), x_t, t + link.depart * h, link.width * h)
        landed = jump.land(paths.fold(keys(), i), move)[1] | (landed & link.from_last)
        assert (left[:, i] == landed).all()


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("score", lookahead.SCORES)
def test_lookahead_is_finite_and_prefers_what_the_posterior_expects(source, score):
    """The look-ahead is finite for any state, and -log p is lower for the token that the posterior prefers."""
    path = a_path(source)
    sure = lambda x_BL, t_B, h_B: jnp.broadcast_to(jnp.where(jnp.arange(path.vocab) == 4, 5.0, 0.0), (*x_BL.shape, path.vocab))
    likely, unlikely = jnp.full((1, L), 4), jnp.full((1, L), 2)
    found = [lookahead.lookahead(path, sure, x, jnp.array([0.5]), jnp.array([0.1]), score)[0] for x in (likely, unlikely)]
    assert np.isfinite(found).all()
    assert score == "entropy" or found[0] < found[1]
    masked = paths.sample_source(keys(), path, L)
    assert np.isfinite(lookahead.lookahead(path, sure, masked, jnp.zeros(B), jnp.ones(B), score)[1]).all()


@pytest.mark.parametrize("source, score, sees", [("uniform", "nll", True), ("uniform", "hidden", False), ("mask", "hidden", False)])
def test_a_hidden_token_is_not_seen(source, score, sees):
    """A posterior that copies its input scores every visible token as sure, and most hidden tokens as unsure."""
    path, x_BL = a_path(source), jnp.tile(jnp.arange(L)[None] % 3, (B, 1))
    parrot = lambda x_BL, t_B, h_B: 20.0 * jax.nn.one_hot(x_BL, path.vocab)
    score_BL = lookahead.lookahead(path, parrot, x_BL, jnp.full((B,), 0.5), jnp.full((B,), 0.1), score)[1]
    assert (score_BL < 0.1).all() if sees else (score_BL > 1.0).mean() > 0.6


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("score", lookahead.SCORES)
def test_without_its_prior_a_posterior_says_nothing(source, score):
    """With the prior removed, a context-free posterior scores 0; any other scores by log p/q."""
    path, x_BL = a_path(source), jnp.tile(jnp.arange(L)[None] % 3, (B, 1))
    same_V = jax.random.normal(jax.random.key(5), (path.vocab,))
    apart_V = jax.random.normal(jax.random.key(6), (path.vocab,))

    def posterior(x_BL, t_B, h_B):
        later_B = jnp.where(t_B > 0, shift, 0.0)
        return jnp.broadcast_to((same_V[None] + later_B[:, None] * apart_V[None])[:, None], (*x_BL.shape, path.vocab))

    shift, half = 0.0, jnp.full((B,), 0.5)
    prior_V = lookahead.log_prior(path, posterior, L, 0.5)
    p, q = (np.array(jax.nn.softmax(a[: path.text_vocab])) for a in (same_V + apart_V, same_V))
    np.testing.assert_allclose(np.exp(prior_V[: path.text_vocab]), q, rtol=1e-5)
    x_BL = paths.sample_source(keys(), path, L) if score == "entropy" else x_BL
    np.testing.assert_allclose(lookahead.lookahead(path, posterior, x_BL, half, half, score, prior_V)[1], 0.0, atol=1e-5)
    shift = 1.0
    wanted = np.full(x_BL.shape, -(p * np.log(p / q)).sum()) if score == "entropy" else -np.log(p / q)[x_BL]
    np.testing.assert_allclose(lookahead.lookahead(path, posterior, x_BL, half, half, score, prior_V)[1], wanted, atol=1e-5)

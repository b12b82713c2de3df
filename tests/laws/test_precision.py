"""The tail of a large vocabulary: 5 % of the mass on tokens of 5e-5 each must be visited 5 % of the time, on every route.

A draw by float32 Gumbel noise loses such tokens, more with every step, and so makes the perplexity of a many-step
teacher look too good.
"""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chance
from tests.laws import systems
from tsdfm_jax.flow import chain, draw, jump, path as paths, sampler, shaping

ROOT = pathlib.Path(__file__).parent.parent.parent
TAIL, EACH, STEPS = 1000, 5e-5, 1024
GPT2 = 50_257


def tailed(vocabulary):
    """(law_V, in_tail_V): TAIL tokens of mass EACH spread over the vocabulary, the rest of the mass on its last token."""
    law = np.zeros(vocabulary)
    law[np.linspace(0, vocabulary - 2, TAIL).astype(int)] = EACH
    law[-1] = 1 - TAIL * EACH
    return law, (law == EACH)


def route(source, vocabulary):
    """(path, posterior, in_tail): a posterior that gives the tailed law at every state, at batch and length one."""
    law, tail = tailed(vocabulary)
    logits = jnp.log(jnp.asarray(np.append(law, 0.0) if source == "mask" else law, jnp.float32))[None, None]
    return paths.Path(source=source, exponent=1.0, text_vocab=vocabulary), lambda x_BL, t_B, h_B: logits, tail


FREE = jnp.zeros((1, 1), int), jnp.zeros((1, 1), bool)


def many(one, seed, count):
    """`one(key_1) -> tokens` for many keys. The tables of V masses do not depend on the key and are made once."""
    return np.asarray(systems.compiled(jax.vmap(lambda key: one(key[None])))(systems.keys(seed, count)))


def assert_tail(tokens, tail, share=TAIL * EACH):
    """Assert that tokens are in the tail with the right share, evenly over its halves, and never at zero mass; return the share."""
    tokens = np.asarray(tokens).ravel()
    assert (tail | (np.arange(len(tail)) == len(tail) - 1))[tokens].all()
    half = np.where(tail[tokens], 1 + (tokens > len(tail) // 2), 0)
    chance.assert_law(half, [1 - share, share / 2, share / 2])
    return float(tail[tokens].mean())


def test_sampler(figures):
    """Mask source, 1,024 steps of `bridge` at V = 50,257: 5 % of the sampler's tokens are in the tail."""
    path, posterior, tail = route("mask", GPT2)
    cfg = sampler.SamplerConfig()
    found = many(lambda key_B: sampler.sample(key_B, path, posterior, STEPS, *FREE, cfg), 0, 2048)
    figures.setdefault("tail", {})[f"sampler, V = {GPT2}"] = assert_tail(found, tail)


def test_a_state_on_the_way():
    """Uniform source: the state after 1,023 of 1,024 `bridge` steps follows kappa p + (1 - kappa) / V, in the tail and outside."""
    vocabulary = GPT2
    path, posterior, tail = route("uniform", vocabulary)
    cfg = sampler.SamplerConfig()

    def one(key_B):
        x_BL, key_B = sampler.start(key_B, path, *FREE)
        return sampler.advance(key_B, path, posterior, x_BL, 0, STEPS - 1, STEPS, *FREE, cfg)

    law, kappa = tailed(vocabulary)[0], (STEPS - 1) / STEPS
    law = kappa * law + (1 - kappa) / vocabulary
    cell = np.where(tail, 1, np.where(np.arange(vocabulary) == vocabulary - 1, 2, 0))
    chance.assert_law(cell[many(one, 1, 2048).ravel()], np.bincount(cell, law, minlength=3))


@pytest.mark.parametrize("kind", ["cumulative", "euler"])
def test_other_jumps(kind, figures):
    """cumulative and euler, V = 1,001: the tail's share after 1,023 of 1,024 steps is that of the exact two-state chain."""
    v, head = TAIL + 1, 1 - TAIL * EACH
    path, posterior, tail = route("uniform", v)
    cfg = sampler.SamplerConfig(jump=kind)

    def one(key_B):
        x_BL, key_B = sampler.start(key_B, path, *FREE)
        return sampler.advance(key_B, path, posterior, x_BL, 0, STEPS - 1, STEPS, *FREE, cfg)

    share = TAIL / v
    for i in range(STEPS - 1):
        t, h = i / STEPS, 1 / STEPS
        r = (1 - t - h) / (1 - t)
        leave = (lambda p: 1 - r ** (1 - p)) if kind == "cumulative" else (lambda p: 1 - np.exp(-h / (1 - t) * (1 - p)))
        share = share * (1 - leave(EACH) * head / (1 - EACH)) + (1 - share) * leave(head)
    found = tail[many(one, 2, 1024).ravel()]
    chance.assert_law(found.astype(int), [1 - share, share])
    figures.setdefault("tail", {})[f"{kind}, V = {v} (exact share {share:.4f})"] = float(found.mean())


def test_trajectories_of_candidates(figures):
    """1,024 midpoints of K = 2 equally likely candidates at V = 50,257: 5 % of the final tokens are in the tail."""
    path, posterior, tail = route("mask", GPT2)
    cfg = shaping.ShapingConfig(candidates=2, selection="boltzmann")
    alike = lambda x_BL, t_B: (jnp.zeros(x_BL.shape[:1]), jnp.zeros(x_BL.shape))

    def one(key_B):
        x_0_BL = paths.sample_source(key_B, path, 1)
        return chain.trajectory(key_B, path, "bridge", posterior, x_0_BL, STEPS, alike, cfg).state_BSL[0, -1, 0]

    figures.setdefault("tail", {})[f"trajectories, one of 2, V = {GPT2}"] = assert_tail(many(one, 3, 1024), tail)


def test_many_candidates_of_one_posterior(figures):
    """262,144 candidates of one prepared jump at V = 50,257 follow the law of all 1,001 tokens (chi-squared)."""
    path, posterior, tail = route("mask", GPT2)
    x_BL, one_B = jnp.full((1, 1), path.mask_id), jnp.ones(1)
    move = jump.prepare(path, "bridge", posterior(None, None, None), x_BL, 0 * one_B, one_B)
    found = many(lambda key_B: jump.land(key_B, move)[0], 4, 262_144)
    share = assert_tail(found, tail)
    chance.assert_law(np.searchsorted(np.flatnonzero(tailed(GPT2)[0]), found.ravel()), np.append(np.full(TAIL, EACH), 0.95))
    figures.setdefault("tail", {})[f"candidates of one jump, V = {GPT2}"] = share


@pytest.mark.parametrize("name", ("fsdfm", "classical", "heun"))
def test_chains_and_pairs(name):
    """5 % of the landed tokens are in the tail, at the last midpoint of a chain and of the compass's pairs."""
    path, posterior, tail = route("mask", GPT2)
    x_BL, t_B, h_B = jnp.full((1, 1), path.mask_id), jnp.zeros(1), jnp.full((1,), 0.8)
    blind, quiet = shaping.ShapingConfig(candidates=1), lambda x_BL, t_B: (jnp.zeros(1), jnp.zeros((1, 1)))

    def one(key_B):
        a_B, b_B = paths.split(key_B)
        midpoints = chain.run(a_B, path, "bridge", name, posterior, x_BL, t_B, h_B, quiet, blind).x_BSL
        return midpoints, chain.blind_pairs(b_B, path, "bridge", name, posterior, x_BL, jnp.zeros((1, 1), int), t_B, h_B)[0]

    for found in systems.compiled(jax.vmap(lambda key: one(key[None])))(systems.keys(5, 32_768)):
        last = np.asarray(found)[:, 0, -1].ravel()
        assert_tail(last[last != path.mask_id], tail)


@pytest.mark.parametrize("temperature, top_p, share", [(2.0, 1.0, 0.05), (1.0, 0.98, 0.03 / 0.98)])
def test_sharpened(temperature, top_p, share):
    """The tail keeps its exact share under a temperature (logits scaled to undo it) and under a nucleus of 600 tail tokens."""
    path, posterior, tail = route("mask", 5_001)
    cfg = sampler.SamplerConfig(temperature=temperature, top_p=top_p)
    scaled = lambda *args: temperature * posterior(*args)
    found = many(lambda key_B: sampler.sample(key_B, path, scaled, STEPS, *FREE, cfg), 6, 2048).ravel()
    assert (tail | (np.arange(5_001) == 5_000))[found].all()
    chance.assert_law(tail[found].astype(int), [1 - share, share])


def test_selection_among_many():
    """The categorical draw that selects among candidates gives a tail of weights its 5 %."""
    law, tail = tailed(TAIL + 1)
    found = many(lambda key_B: draw.categorical(key_B[0], jnp.asarray(law, jnp.float32)), 7, 65_536)
    assert_tail(found, tail)


def test_source():
    """The uniform source draws each of 50,257 tokens with probability 1/50,257."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=GPT2)
    chance.assert_law(paths.sample_source(systems.keys(8, 1024), path, 1024), np.full(GPT2, 1 / GPT2))


def test_what_the_test_is_for(figures, request):
    """The usual way, one `jax.random.categorical` over the tokens and staying, fails this test and loses much of the tail.

    It needs three billion draws of Gumbel noise, so it runs only with --write-laws.
    """
    if not request.config.getoption("--write-laws"):
        pytest.skip("slow; runs with --write-laws")
    law, tail = tailed(TAIL + 1)
    log = lambda r: jnp.log(jnp.append(jnp.asarray(law, jnp.float32) * (1 - r), r))[None]

    def step(i, x_N):
        key = jax.random.fold_in(jax.random.key(9, impl="rbg"), i)  # a fast generator; Gumbel noise causes the loss
        y_N = jax.random.categorical(key, log(1.0 - 1.0 / (STEPS - i)), shape=x_N.shape)
        return jnp.where(x_N == TAIL + 1, y_N, x_N)

    found = np.asarray(systems.compiled(lambda x_N: jax.lax.fori_loop(0, STEPS, step, x_N))(jnp.full(3072, TAIL + 1)))
    with pytest.raises(AssertionError):
        chance.assert_law(tail[found].astype(int), [1 - TAIL * EACH, TAIL * EACH])
    figures.setdefault("tail", {})["the usual way: jax.random.categorical, V = 1001"] = float(tail[found].mean())


def test_no_route_draws_by_gumbel_noise():
    """No file of the package calls a JAX draw that uses Gumbel noise or its own float32 table.

    The exception is the benchmark, which times it against the package's draw.
    """
    banned = {"categorical", "gumbel", "choice"}
    for file in set((ROOT / "tsdfm_jax").glob("**/*.py")) - {ROOT / "tsdfm_jax/experiments/benchmark/parts.py"}:
        for node in ast.walk(ast.parse(file.read_text())):
            drawn = isinstance(node, ast.Attribute) and node.attr in banned and ast.unparse(node.value).endswith("random")
            assert not drawn, f"{file}:{node.lineno}"

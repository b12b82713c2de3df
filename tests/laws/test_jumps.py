"""The jumps: their kernels, their final law with the true posterior, and their rate of convergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies

from tests import chance
from tests.laws import enumerable, systems
from tsdfm_jax.flow import jump, path as paths, sampler

STEPS = tuple(2**k for k in range(11))


@functools.lru_cache(maxsize=None)
def compiled(system, kind):
    """`(t_N, h_N) -> Move` from every state of a system, under its true posterior."""
    x_BL, posterior = jnp.asarray(system.states), systems.posterior_of(system)
    return jax.jit(lambda t_B, h_B: jump.prepare(systems.path_of(system), kind, posterior(x_BL, t_B), x_BL, t_B, h_B))


def code_kernel_NN(system, kind, t, h):
    """The kernel of the package's prepared Move, from its probabilities to leave and its landing masses."""
    n, width = len(system.states), system.text_vocab + system.masked
    move = compiled(system, kind)(systems.full(n, t), systems.full(n, h))
    mass = np.asarray(move.table.mass, np.float64).reshape(n, system.length, -1)[..., :width]
    total, leave = mass.sum(axis=-1, keepdims=True), np.asarray(move.leave_BL, np.float64)[..., None]
    return system.product_NN((1 - leave) * np.eye(width)[system.states] + leave * mass / np.where(total > 0, total, 1))


@given(
    system=systems.some(shapes=((5, 1), (3, 2), (2, 3))),
    kind=strategies.sampled_from(sorted(jump.JUMPS)),
    t=strategies.floats(0.0, 0.95),
    share=strategies.floats(0.01, 1.0),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_kernels(system, kind, t, share):
    """A prepared jump has the kernel of its definition, positions independent, to float32 rounding.

    A step ends at t = 1 or at least 1/1024 before it, as every step of the package does: nearer, 1 - kappa(t + h) has no digits
    left in float32.
    """
    assume(share == 1.0 or (1 - t) * (1 - share) >= 2**-10)
    h = share * (1 - t)
    np.testing.assert_allclose(code_kernel_NN(system, kind, t, h), system.jump_NN(kind, t, h), atol=2e-5)


@given(system=systems.some(shapes=((2, 1), (3, 1), (5, 1))), steps=strategies.integers(1, 1024))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_bridge_is_exact_for_one_position(system, steps):
    """With the true posterior and L = 1, bridge ends in the data law after any number of steps (exact matrices). [D]"""
    np.testing.assert_allclose(system.chain_N("bridge", steps), system.data_N(), atol=1e-12)


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_bridge_as_it_is_computed(source, exponent, figures):
    """At L = 1 the package's float32 kernels, multiplied over 1 to 1,024 steps, end in the data law to 1e-5."""
    system, distance = enumerable.draw(source, exponent, 5, 1, seed=1), {}
    for steps in (1, 2, 3, 32, 1024):
        law = system.source_N
        for i in range(steps):
            law = law @ code_kernel_NN(system, "bridge", i / steps, 1 / steps)
        distance[steps] = float(enumerable.tv(law, system.data_N()))
    assert max(distance.values()) < 1e-5
    figures.setdefault("bridge_float32_tv", {})[f"{source}, n = {exponent:g}"] = distance


def sampled(system, kind, count):
    """`(seed, steps) -> indices` of texts that the package's sampler draws under the true posterior."""
    given_BL, free_BL = jnp.zeros((count, system.length), int), jnp.zeros((count, system.length), bool)
    path, posterior, cfg = systems.path_of(system), systems.posterior_of(system), sampler.SamplerConfig(jump=kind)
    draw = systems.compiled(lambda key_B, steps: sampler.sample(key_B, path, posterior, steps, given_BL, free_BL, cfg))
    return lambda seed, steps: system.index(np.asarray(draw(systems.keys(seed, count), steps)))


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_bridge_as_it_is_sampled(source, exponent):
    """At L = 1 the sampler's texts follow the data law after 1 to 1,024 steps (chi-squared, false alarms 1e-6)."""
    system = enumerable.draw(source, exponent, 5, 1, seed=1)
    draw = sampled(system, "bridge", 2048)
    for steps in (1, 2, 3, 17, 1024):
        chance.assert_law(draw(steps, steps), system.data_N())


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("kind", jump.JUMPS)
def test_the_sampler_is_its_matrices(source, kind):
    """At L = 3 the sampler's texts follow the product of its jump's kernels, for every jump."""
    system = enumerable.draw(source, 2.0, 3, 3, seed=2)
    draw = sampled(system, kind, 16384)
    for steps in (1, 2, 7):
        chance.assert_law(draw(steps, steps), system.chain_N(kind, steps))


def distances(source, kind, text_vocab, length, exponent, seed):
    """Total variation from the data law after each number of STEPS, by exact matrices."""
    system = enumerable.draw(source, exponent, text_vocab, length, seed)
    return np.array([enumerable.tv(system.chain_N(kind, steps), system.data_N()) for steps in STEPS])


@pytest.mark.parametrize("source", paths.SOURCES)
@pytest.mark.parametrize("kind", jump.JUMPS)
def test_distance_falls_with_the_steps(source, kind, figures):
    """At L = 3 the distance from the data law falls as 1/steps, or log(steps)/steps for uniform `cumulative`."""
    table = np.mean([distances(source, kind, 3, 3, 1.0, seed) for seed in range(4)], axis=0)
    scaled = table * np.array(STEPS)
    order = float(np.log2(table[-2] / table[-1]))
    if kind == "cumulative" and source == "uniform":
        assert scaled[-1] < 2.0 * np.log(STEPS[-1]) and 0.3 < order < 1.0
    else:
        assert abs(scaled[-1] / scaled[-2] - 1) < 0.03 and abs(order - 1) < 0.04
    row = {"tv": dict(zip(map(str, STEPS), table.tolist())), "order_512_1024": order}
    figures.setdefault("jumps", {})[f"{source}, {kind}"] = row


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_rates_of_convergence_for_one_position(exponent, figures):
    """Uniform source, L = 1: euler's distance falls as h, cumulative's as h log(1/h) with the constant of theory.

    Near t = 1 a position that has landed should leave for y with chance h n q(y) / (V q(x)); m steps before the end
    `cumulative` leaves with m log(m/(m - 1)) = 1 + 1/(2m) + … times that. Summed over m, the law is off by
    (h n / 2) log(1/h) (q - 1/V). Under the mask source both are exact at L = 1.
    """
    system = enumerable.draw("uniform", exponent, 5, 1, seed=1)
    laws = {kind: {n: system.chain_N(kind, n) - system.data_N() for n in (256, 512, 1024)} for kind in ("cumulative", "euler")}
    growth = (1024 * laws["cumulative"][1024] - 512 * laws["cumulative"][512]) / np.log(2)
    np.testing.assert_allclose(growth, exponent / 2 * (system.data_N() - 1 / 5), rtol=0.1, atol=2e-3)
    order = {kind: float(np.log2(enumerable.tv(d[512], 0) / enumerable.tv(d[1024], 0))) for kind, d in laws.items()}
    assert abs(order["euler"] - 1) < 0.06
    figures.setdefault("order_at_one_position", {})[f"n = {exponent:g}"] = order
    masked = enumerable.draw("mask", exponent, 5, 1, seed=1)
    for kind in laws:
        np.testing.assert_allclose(masked.chain_N(kind, 64), masked.data_N(), atol=1e-12)

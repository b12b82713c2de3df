"""The enumerable systems in the package's terms: paths and posteriors in JAX, and a Hypothesis strategy of systems."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies

from tests.laws import enumerable
from tsdfm_jax.flow import path as paths

TINY = 1e-30  # the floor of a probability before its logarithm
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def compiled(function):
    """`jax.jit` with the full optimisation that users get, for programs that run long.

    Compilation takes up to half a minute, against two seconds with the other tests' flags.
    """
    return jax.jit(function, compiler_options=OPTIMISED)


def path_of(system):
    """The package's path of a system."""
    return paths.Path(source=system.source, exponent=system.exponent, text_vocab=system.text_vocab)


def posterior_of(system):
    """The true posterior in the package's form: `posterior(x_BL, t_B, h_B=None) -> logits_BLV`, float32."""
    texts_DL = jnp.asarray(system.texts)
    law_D, onehot_DLV = jnp.asarray(system.text_law, jnp.float32), jnp.asarray(system.onehot_DLV, jnp.float32)

    def posterior(x_BL, t_B, h_B=None):
        kappa_B11 = jnp.maximum(t_B, 1e-6)[:, None, None] ** system.exponent
        noise_BDL = (x_BL == system.text_vocab)[:, None] if system.masked else 1.0 / system.text_vocab
        likelihood_BDL = kappa_B11 * (x_BL[:, None] == texts_DL[None]) + (1.0 - kappa_B11) * noise_BDL
        likelihood_BDL /= likelihood_BDL.max(axis=1, keepdims=True)  # cancels below; kappa^L itself leaves float32 near t = 0
        joint_BD = likelihood_BDL.prod(axis=-1) * law_D[None]
        p_BLV = jnp.einsum("bd,dlv->blv", joint_BD / joint_BD.sum(axis=1, keepdims=True), onehot_DLV)
        logits_BLV = jnp.log(jnp.maximum(p_BLV, TINY))
        return jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, int(system.masked))))

    return posterior


def index_of(system, x_BL):
    """The index of each state, in JAX."""
    base = (system.text_vocab + system.masked) ** np.arange(system.length)[::-1]
    return (x_BL * jnp.asarray(base)[None]).sum(axis=-1)


def texts(system, count, seed):
    """(indices, texts): `count` draws from the system's law, by NumPy."""
    places = np.random.default_rng(seed).choice(len(system.texts), size=count, p=system.text_law)
    return places, jnp.asarray(system.texts[places], jnp.int32)


def keys(seed, count):
    """A key for each of `count` sequences."""
    return jax.random.split(jax.random.key(seed), count)


def full(count, value):
    """`value` as t_B or h_B."""
    return jnp.full((count,), value, jnp.float32)


def some(sources=paths.SOURCES, shapes=((2, 1), (5, 1), (3, 2), (2, 3)), exponents=(1.0, 2.0, 3.0)):
    """A Hypothesis strategy of systems: shapes are (V, L), joint laws from nearly deterministic to nearly flat."""
    return strategies.builds(
        lambda source, exponent, shape, seed, concentration: enumerable.draw(source, exponent, *shape, seed, concentration),
        strategies.sampled_from(sources),
        strategies.sampled_from(exponents),
        strategies.sampled_from(shapes),
        strategies.integers(0, 2**32 - 1),
        strategies.sampled_from([0.3, 1.0, 5.0]),
    )

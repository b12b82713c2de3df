"""The compass: the energy that training finds, and how each selection changes a midpoint's law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import chance, tiny
from tests.laws import enumerable, systems
from tsdfm_jax.distillation import compass_training
from tsdfm_jax.flow import jump, path as paths, shaping
from tsdfm_jax.models import energy as energies, transformer
from tsdfm_jax.runtime import mesh as meshes

COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Midpoint:
    """A `bridge` jump from t to t + h: the generator's law and the path's law of the midpoint, given x_t: [N, N] each."""

    def __init__(self, source, t, h, text_vocab=3, length=2):
        self.system = enumerable.draw(source, 1.0, text_vocab, length, seed=3, concentration=0.5)
        self.t, self.h = t, h
        self.start = self.system.marginal_N(self.system.kappa(t))
        self.generated, self.true = self.system.jump_NN("bridge", t, h), self.system.path_jump_NN(t, t + h)
        self.energy = self._energy(self.true, self.generated)

    @staticmethod
    def _energy(true, generated):
        reached = generated > 0
        energy = np.where(reached, np.log(np.where(reached, generated, 1)) - np.log(np.where(reached, true, 1)), 0.0)
        return energy.round(9)  # rounding makes theoretical ties exact

    @functools.cached_property
    def blurred(self):
        """The best energy for a compass that sees the midpoint but not x_t: from the ratio of the two marginal laws."""
        return self._energy(self.start @ self.true, self.start @ self.generated)[None]

    def chosen(self, candidates, selection, energy=None):
        return enumerable.selected_NN(self.generated, self.energy if energy is None else energy, candidates, selection)

    def distance(self, law_NN):
        """Total variation from the true joint law of the midpoint, mean over x_t."""
        return float(self.start @ enumerable.tv(law_NN, self.true))

    def log_ratio(self, law_NN):
        """Mean exact log ratio of path to generator under a law."""
        return float(self.start @ (law_NN * -self.energy).sum(axis=1))


MIDPOINTS = [("mask", 0.0, 0.5), ("mask", 0.25, 0.5), ("uniform", 0.0, 0.5), ("uniform", 0.25, 0.5)]


@pytest.mark.parametrize("source, t, h", MIDPOINTS)
def test_what_choosing_does(source, t, h, figures):
    """With the exact ratio as energy, boltzmann tends to the true joint law as 1/K, argmin overshoots, worst moves away.

    Boltzmann selection is importance resampling. The laws are exact for each K, not simulated.
    """
    m = Midpoint(source, t, h)
    tv = {s: [m.distance(m.chosen(k, s)) for k in COUNTS] for s in shaping.SELECTIONS}
    ratio = {s: [m.log_ratio(m.chosen(k, s)) for k in COUNTS] for s in shaping.SELECTIONS}
    true_ratio = m.log_ratio(m.true)
    assert (np.diff(tv["boltzmann"]) < 0).all() and tv["boltzmann"][-1] < tv["boltzmann"][0] / 12
    assert abs(tv["boltzmann"][-2] / tv["boltzmann"][-1] - 2) < 0.2
    assert (np.diff(ratio["argmin"]) > 0).all() and ratio["argmin"][-1] > true_ratio
    assert (np.diff(ratio["worst"]) < 0).all() and (np.diff(tv["worst"]) > 0).all()
    np.testing.assert_allclose(m.chosen(64, "random"), m.generated)
    blurred = [m.distance(m.chosen(k, "boltzmann", m.blurred)) for k in COUNTS]
    figures.setdefault("selection", {})[f"{source}, t = {t:g}, h = {h:g}"] = {
        "candidates": COUNTS,
        "tv": tv,
        "tv_boltzmann_by_the_marginal_ratio": blurred,
        "mean_log_ratio": ratio,
        "mean_log_ratio_of_the_true_law": true_ratio,
    }


@pytest.mark.parametrize("source, t, h", [("mask", 0.25, 0.5), ("uniform", 0.0, 0.5)])
@pytest.mark.parametrize("selection", shaping.SELECTIONS)
def test_the_code_chooses_by_these_laws(source, t, h, selection):
    """shaping.shaped_jump follows the exact law of its selection at K = 8 for every x_t (chi-squared, false alarms 1e-6)."""
    m, each = Midpoint(source, t, h), 2048
    system, n = m.system, len(m.system.states)
    place_B = jnp.repeat(jnp.arange(n), each)
    x_BL, table_NN = jnp.asarray(system.states)[place_B], jnp.asarray(m.energy, jnp.float32)
    cfg = shaping.ShapingConfig(candidates=8, selection=selection)

    def energy(x_BL, t_B):
        return table_NN[place_B, systems.index_of(system, x_BL)], jnp.zeros(x_BL.shape)

    def one(key_B):
        t_B, h_B = systems.full(n * each, t), systems.full(n * each, h)
        logits = systems.posterior_of(system)(x_BL, t_B)
        move = jump.prepare(systems.path_of(system), "bridge", logits, x_BL, t_B, h_B)
        return shaping.shaped_jump(key_B, move, t_B + h_B, energy, cfg).x_BL

    found = system.index(np.asarray(jax.jit(one)(systems.keys(11, n * each)))).reshape(n, each)
    law_NN = m.chosen(8, selection)
    for row, law in zip(found, law_NN):
        chance.assert_law(row, np.pad(law, (0, n - len(law))))


def trained(system, width, steps, batch=768):
    """Train an energy network by the stage's NCE loss with the true posterior as teacher; return `energy(s) -> [N]`.

    Pairs come from single jumps of h = 1/2 at stratified times. The energy is that of every state at time s.
    """
    config = tiny.get_config()
    with config.unlocked():
        config.trajectories.chain = "heun"
        config.compass.step_weights = (0.0, 1.0) + (0.0,) * 9
    path, posterior = systems.path_of(system), systems.posterior_of(system)
    cfg = transformer.TransformerConfig(vocab=path.vocab, blocks=2, width=width, heads=2, cond_width=16)
    params = meshes.unbox(energies.init(jax.random.key(0), cfg, system.length))
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, steps))  # at 1e-2 the result depends on rounding
    teacher = lambda _, x_BL, t_B, h_B: posterior(x_BL, t_B)
    law_D, texts_DL = jnp.asarray(system.text_law, jnp.float32), jnp.asarray(system.texts)

    def update(i, carry):
        params, state = carry
        text_key, pair_key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        place_B = jnp.searchsorted(jnp.cumsum(law_D), jax.random.uniform(text_key, (batch,)) * 0.999999)
        loss = lambda p: compass_training.nce_loss(config, path, cfg, teacher, pair_key, p, texts_DL[place_B], None)[0]
        change, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    train = systems.compiled(lambda carry: jax.lax.fori_loop(0, steps, update, carry))
    params, _ = train((params, optimiser.init(params)))
    x_NL = jnp.asarray(system.states)
    return lambda s: np.asarray(energies.apply(cfg, params, x_NL, systems.full(len(x_NL), s))[0], np.float64)


@pytest.mark.parametrize("source", paths.SOURCES)
def test_training_finds_the_log_ratio(source, figures):
    """A network trained by the stage's NCE finds -log of the exact density ratio of path to generator, sign included.

    Boltzmann selection among 8 by this energy brings the midpoint nearer to the true joint law.
    """
    h, rows = 0.5, {}
    energy = None
    for s in (0.55, 0.7, 0.85):
        m = Midpoint(source, s - h, h)
        energy = energy or trained(m.system, 32, 600)
        law, found, exact = m.start @ m.generated, -energy(s), -m.blurred[0]
        seen = law > 0
        rows[s] = {
            "correlation": float(np.corrcoef(found[seen], exact[seen])[0, 1]),
            "mean_error_nats": float(law @ np.abs(found - exact)),
            "mean_size_nats": float(law @ np.abs(exact)),
            "tv_blind": m.distance(m.generated),
            "tv_boltzmann_of_8_trained": m.distance(m.chosen(8, "boltzmann", -found[None])),
            "tv_boltzmann_of_8_exact": m.distance(m.chosen(8, "boltzmann", m.blurred)),
        }
        assert rows[s]["correlation"] > 0.97 and rows[s]["mean_error_nats"] < rows[s]["mean_size_nats"] / 3
        assert rows[s]["tv_boltzmann_of_8_trained"] < rows[s]["tv_blind"]
    figures.setdefault("trained_energy", {})[source] = rows

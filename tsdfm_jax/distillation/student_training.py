"""Training of a step-size-conditioned student: by the chain's target, a trajectory's end, or these two and the data."""

import functools

import jax
import jax.numpy as jnp

from tsdfm_jax.config import settings
from tsdfm_jax.flow import chain, losses, path as paths
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as meshes, state as states


def learner(config, text_vocab, mesh, teacher, initial_params, round_number=0):
    """The state.Learner of a student that starts from `initial_params`; its batches are dicts, as stages/student.py makes them.

    `teacher` is the frozen network that may evaluate a chain's target: the teacher, or the generator of the round.
    """
    path = settings.path(config, text_vocab)
    cfg = settings.network(config, path.vocab, step_conditioned=True)
    init = lambda seed, initial_params: transformer.overlay(
        transformer.init(jax.random.key(seed), cfg, config.data.length), initial_params
    )
    return states.learner(
        init,
        functools.partial(loss, config, path, cfg, teacher.apply),
        settings.optimiser(config.student),
        mesh,
        settings.student_seed(config) + round_number,
        given=(meshes.seed_word(config.seed), initial_params),
        frozen=teacher.params,
        pass_ema=True,
    )


def learned_fields(schema):
    """Fields of a record that a student learns from: all but `energy` and `index`.

    Shaped and blind sets have different numbers of energies; without them both students share one program.
    """
    return [name for name in schema.fields if name not in ("energy", "index")]


def loss(config, path, cfg, teacher, key, params, batch, teacher_params, average):
    """(loss of the configured target, its parts if it has several), means over positions."""
    apply = functools.partial(transformer.apply, cfg)
    evaluate = evaluator(config, apply, teacher, teacher_params, average)
    chain_key, endpoint_key, data_key = jax.random.split(key, 3)
    parts = {}
    if "chain" in batch:
        parts["chain"] = chain_loss(config, path, apply, evaluate, chain_key, params, batch["chain"])
    if "whole" in batch:
        parts["endpoint"] = endpoint_loss(config, path, apply, endpoint_key, params, batch["whole"])
    if "data" in batch:
        parts["data"] = data_loss(config, path, apply, data_key, params, batch["data"])
    weights = dict(zip(("chain", "endpoint", "data"), config.student.weights)) if len(parts) > 1 else dict.fromkeys(parts, 1.0)
    total = sum(weights[name] * value for name, value in parts.items())
    return total, {f"loss_{name}": value for name, value in parts.items()} if len(parts) > 1 else {}


def evaluator(config, apply, teacher, teacher_params, average):
    """The network that evaluates a chain's target, with h/2 as its step size: the student's own average or the frozen network."""
    if config.student.evaluator in ("teacher", "generator"):
        return lambda x_BL, t_B, h_B: teacher(teacher_params, x_BL, t_B, h_B)
    return lambda x_BL, t_B, h_B: apply(average, x_BL, t_B, h_B)


def chain_loss(config, path, apply, evaluate, key, params, rows):
    """Forward KL from the target, recomputed at the recorded midpoints; the path loss where h < `student.teacher_below`."""
    x_1_BL, x_t_BL, states_BSL = (rows[name].astype(jnp.int32) for name in ("x_1", "x_t", "states"))
    t_B, h_B = rows["t"], rows["h"]
    target_args = (path, config.trajectories.chain, evaluate, x_t_BL, states_BSL, t_B, h_B, rows.get("left"))
    target_BLV = jax.lax.stop_gradient(chain.target_logits(*target_args))
    logits_BLV = apply(params, x_t_BL, t_B, h_B, key)
    kl_BL = losses.distillation_kl(path, target_BLV, logits_BLV, x_t_BL)
    early_B = jnp.minimum(t_B, losses.LAST_TIME)
    data_BL = losses.PATH_LOSSES[config.student.loss](path, logits_BLV, x_1_BL, x_t_BL, early_B)
    return jnp.where((h_B < config.student.teacher_below)[:, None], data_BL, kl_BL).mean()


def endpoint_loss(config, path, apply, key, params, rows):
    """The path loss from a recorded state to the text at the end of its trajectory. [D]

    A step size is drawn by its weight among those that the midpoints resolve, and a state at a multiple of it: exactly the
    pairs (t, h) of sampling in 1/h steps. The share `student.fresh` of the states is not the recorded one, but drawn from the
    path to that text.
    """
    states_BSL = rows["states"].astype(jnp.int32)
    b, s = states_BSL.shape[0], states_BSL.shape[1] - 1
    step_key, dropout_key = jax.random.split(key)
    at_B, h_B = jax.vmap(lambda k: draw_state(k, s, config.student.step_weights))(jax.random.split(step_key, b))
    x_t_BL = jnp.take_along_axis(states_BSL, at_B[:, None, None], axis=1)[:, 0]
    t_B, x_1_BL = at_B / s, states_BSL[:, -1]
    if config.student.fresh > 0:
        x_t_BL = with_fresh_noise(config, path, jax.random.fold_in(key, 1), x_t_BL, x_1_BL, t_B)
    logits_BLV = apply(params, x_t_BL, t_B, h_B, dropout_key)
    return losses.PATH_LOSSES[config.student.loss](path, logits_BLV, x_1_BL, x_t_BL, t_B).mean()


def with_fresh_noise(config, path, key, x_t_BL, x_1_BL, t_B):
    """The states x_t, of which the share `student.fresh`, text by text, is replaced by x_1 under fresh noise. [D]"""
    choice_key, path_key = jax.random.split(key)
    fresh_B = jax.random.uniform(choice_key, t_B.shape) < config.student.fresh
    drawn_BL = paths.sample_xt(jax.random.split(path_key, t_B.shape[0]), path, x_1_BL, t_B)
    return jnp.where(fresh_B[:, None], drawn_BL, x_t_BL)


def draw_state(key, s, weights):
    """Draw (place, h): a step size h = 2^-k >= 1/S, and the place among 0 … S - 1 of a state at a multiple of h."""
    size_key, place_key = jax.random.split(key)
    allowed = [w for h, w in zip(settings.STEP_SIZES, weights) if h * s >= 1]
    prefix = jnp.cumsum(jnp.array(allowed) / sum(allowed))
    k = (jax.random.uniform(size_key, ()) >= prefix[:-1]).sum()
    h = jnp.array(settings.STEP_SIZES)[k]
    multiple = jax.random.randint(place_key, (), 0, (1 / h).astype(jnp.int32))
    return (multiple * h * s).astype(jnp.int32), h


def data_loss(config, path, apply, key, params, x_1_BL):
    """The path loss on data, with the smallest step size as h."""
    time_key, path_key, dropout_key = jax.random.split(key, 3)
    b = x_1_BL.shape[0]
    t_B = paths.stratified_times(time_key, b, losses.LAST_TIME)
    x_t_BL = paths.sample_xt(jax.random.split(path_key, b), path, x_1_BL, t_B)
    logits_BLV = apply(params, x_t_BL, t_B, jnp.full((b,), settings.STEP_SIZES[-1]), dropout_key)
    return losses.PATH_LOSSES[config.student.loss](path, logits_BLV, x_1_BL, x_t_BL, t_B).mean()

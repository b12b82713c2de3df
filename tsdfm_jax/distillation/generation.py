"""Trajectories from a generator and a compass: the program that makes the records, batch by batch."""

import jax
import jax.numpy as jnp

from tsdfm_jax.config import settings
from tsdfm_jax.distillation import compasses
from tsdfm_jax.flow import chain, path as paths, sampler
from tsdfm_jax.runtime import mesh as meshes


def whole(config, path, generator, build, shaping_cfg):
    """`(weights, key_B, x_1_BL) -> fields`: trajectories from source to text."""
    make_trajectories = _trajectory_program(config, path, generator, build, shaping_cfg, chain.trajectory)
    return lambda *given: _fields(make_trajectories(*given))


def watched(config, path, generator, build, shaping_cfg):
    """The same trajectories with the K candidates of each midpoint and their scores by position, for the report."""
    make_trajectories = _trajectory_program(config, path, generator, build, shaping_cfg, chain.detailed_trajectory)

    def generate_batch(*given):
        trajectories = make_trajectories(*given)
        return _fields(trajectories) | {"candidates": trajectories.cand_BSKL, "scores": trajectories.score_BSKL}

    return generate_batch


def _fields(trajectories):
    return {"states": trajectories.state_BSL, "energy": trajectories.energy_BSK, "index": trajectories.index_BS}


def _trajectory_program(config, path, generator, build, shaping_cfg, walk):
    """`(weights, key_B, x_1_BL)` -> what `walk` returns, from starting states that the keys draw."""
    steps = config.trajectories.midpoints

    def generate_batch(weights, key_B, x_1_BL):
        del x_1_BL
        source_B, jumps_B = paths.split(key_B)
        x_0_BL = paths.sample_source(source_B, path, config.data.length)
        posterior = lambda x_BL, t_B, h_B: generator(weights["generator"], x_BL, t_B, h_B)
        energy = build(weights["compass"], posterior, jnp.full(key_B.shape, 1.0 / steps))
        return walk(jumps_B, path, config.flow.jump, posterior, x_0_BL, steps, energy, shaping_cfg)

    return generate_batch


def chained(config, path, generator, build, shaping_cfg):
    """`(weights, key_B, x_1_BL) -> fields`: short chains from a noised text, h drawn by `student.step_weights`."""

    def generate_batch(weights, key_B, x_1_BL):
        step_key_B, path_B, jumps_B = paths.split(key_B, 3)
        t_B, h_B = jax.vmap(lambda key: draw_step(key, config.student.step_weights))(step_key_B)
        x_t_BL = paths.sample_xt(path_B, path, x_1_BL, t_B)
        posterior = lambda x_BL, t_B, h_B: generator(weights["generator"], x_BL, t_B, h_B)
        energy = build(weights["compass"], posterior, h_B / 2)
        name = config.trajectories.chain
        chains = chain.run(jumps_B, path, config.flow.jump, name, posterior, x_t_BL, t_B, h_B, energy, shaping_cfg)
        fields = {"states": chains.x_BSL, "energy": chains.energy_BSK, "index": chains.index_BS}
        if chain.CHAINS[name].weights is None:
            fields["left"] = chains.left_BSL
        return fields | {"x_1": x_1_BL, "x_t": x_t_BL, "t": t_B, "h": h_B}

    return generate_batch


def draw_step(key, weights):
    """(t, h): a step size by its weight, and a time on the grid of 1/1024 with t + h <= 1."""
    size_key, time_key = jax.random.split(key)
    prefix = jnp.cumsum(jnp.array(weights) / sum(weights))
    size_index = (jax.random.uniform(size_key, ()) >= prefix[:-1]).sum()
    h = jnp.array(settings.STEP_SIZES)[size_index]
    times = 1024 - (h * 1024).astype(jnp.int32) + 1
    return jax.random.randint(time_key, (), 0, times) / 1024, h


KINDS = {"whole": whole, "chain": chained, "watched": watched}


def shaping_config(config, variant):
    """The ShapingConfig of a variant; the blind variant has one candidate."""
    return settings.shaped(config, **({} if variant == "shaped" else {"candidates": 1}))


def program(config, text_vocab, mesh, kind, variant, generator, round_number=0, batch=None):
    """The jitted `(weights, first, x_1_BL) -> fields` that makes the records `first`, `first` + 1, … of one batch.

    For given weights a record depends on the seed, the round and its own number. The program depends on neither seed nor
    round, except that with `student.progressive` each round has its own step size. `weights` has the keys `generator` and
    `compass`; `generator(params, x_BL, t_B, h_B)` is the network. `batch` is trajectories.batch unless given.
    """
    path, config = settings.path(config, text_vocab), settings.of_round(config, round_number)
    make = KINDS[kind](config, path, generator, compasses.make(config, path), shaping_config(config, variant))
    batch_sharding = meshes.batch_sharding(mesh)

    def generate_batch(seed, weights, first, x_1_BL):
        key_B = sampler.sample_keys(seed, first, batch or config.trajectories.batch)
        return make(weights, jax.lax.with_sharding_constraint(key_B, batch_sharding), x_1_BL)

    seed = settings.student_seed(config) + 2000 + round_number
    return meshes.seeded(mesh, generate_batch, seed, in_shardings=(None, None, batch_sharding), out_shardings=batch_sharding)

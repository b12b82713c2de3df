"""A few trajectories with all their candidates, and the students' steps, as the report shows them."""

import jax
import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.distillation import generation
from tsdfm_jax.flow import shaping
from tsdfm_jax.inference import sampling
from tsdfm_jax.runtime import hosts, mesh as meshes
from tsdfm_jax.workspace import trained

SCHEMA = 1


def make(config, workdir):
    """Everything that the viewer shows, as plain JSON; see `trajectories` and `students` for its parts.

    Tokens are numbers; `vocabulary` maps each to the text to show for it.
    """
    mesh, tok, count = settings.mesh(config), trained.tokenizer(config, workdir), config.report.traces
    traces = {"schema": SCHEMA, "policy": config.shaping.policy, "selection": config.shaping.selection, "tau": config.shaping.tau}
    traces["trajectories"] = trajectories(config, workdir, mesh, tok, count)
    traces["students"] = students(config, workdir, mesh, tok, count)
    tokens = {int(x) for x in np.unique(np.concatenate([np.ravel(x) for x in _tokens(traces)]))}
    return traces | {"vocabulary": {str(x): piece for x, piece in zip(sorted(tokens), tok.pieces(sorted(tokens)))}}


def _tokens(traces):
    for trajectory in traces["trajectories"]:
        yield trajectory["start"]
        for midpoint in trajectory["midpoints"]:
            yield from (midpoint["state"], midpoint["candidates"])
    yield from (student["states"] for student in traces["students"])


def trajectories(config, workdir, mesh, tok, count):
    """The first `count` trajectories of the last round, recomputed from their record numbers; shaped ones if there are any.

    Each midpoint has its `time`, whether it was `shaped` (tau), the `state` that was kept, the K `candidates`, their `energy`,
    their `token_energy` at every position (both None for K = 1) and the number of the candidate that was `kept`.
    """
    variant, number = networks.variants(config)[0], config.rounds - 1
    generator = trained.generator(config, workdir, mesh, variant, number)
    compass_params, _ = trained.compass(config, workdir, mesh) if variant == "shaped" else (None, None)
    batch = meshes.round_up(mesh, count)
    program = generation.program(config, tok.vocab_size, mesh, "watched", variant, generator.apply, number, batch)
    zeros_BL = meshes.put_whole(mesh, np.zeros((batch, config.data.length), np.int32))
    rows = hosts.gather(program({"generator": generator.params, "compass": compass_params}, np.int32(0), zeros_BL))
    return [_trajectory(config, variant, i, jax.tree.map(lambda a: a[i], rows)) for i in range(count)]


def _trajectory(config, variant, number, row):
    s, has_candidates = config.trajectories.midpoints, generation.shaping_config(config, variant).candidates > 1
    midpoints = []
    for i in range(s):
        time = (i + 1) / s
        midpoints.append(
            {
                "time": time,
                "shaped": has_candidates and shaping.is_shaped(time, config.shaping),
                "kept": int(row["index"][i]),
                "state": row["states"][i + 1].tolist(),
                "candidates": row["candidates"][i].tolist(),
                "energy": _rounded(row["energy"][i]) if has_candidates else None,
                "token_energy": _rounded(row["scores"][i]) if has_candidates else None,
            }
        )
    return {"record": number, "start": row["states"][0].tolist(), "midpoints": midpoints}


def _rounded(values):
    """Round to four significant digits, which are enough to show."""
    return [_rounded(v) for v in values] if np.ndim(values) else float(f"{values:.4g}")


def students(config, workdir, mesh, tok, count):
    """Every state of the students' first `count` texts of the table, at the number of `evaluate.student_steps` nearest to 8."""
    c = config.evaluate
    steps = min(c.student_steps, key=lambda n: (abs(n - 8), n))
    apply = trained.network(config, tok.vocab_size, mesh, step_conditioned=True).apply
    path, cfg = settings.path(config, tok.vocab_size), settings.sampler_config(config, c)
    draw = sampling.Sampler(apply, path, mesh, config.data.length, meshes.round_up(mesh, count), cfg)
    texts, seed = [], c.seeds[0]
    for variant in networks.variants(config):
        states, params = [], trained.student(config, workdir, mesh, variant).params
        draw(params, seed + sampling.TABLE_SEED, count, steps, on_state=lambda first, step, x_BL: states.append(x_BL))
        common = {"model": f"student_{variant}", "seed": seed, "times": [i / steps for i in range(steps + 1)]}
        texts += [common | {"index": i, "states": [x_BL[i].tolist() for x_BL in states]} for i in range(count)]
    return texts

"""The compass alone: does picking by energy at one midpoint lower the final text's perplexity?

The teacher samples from noise to text. At one midpoint it keeps the best of K candidates, and at all others the first; or it
keeps the best at every midpoint. Every cell has the same starting states, random draws and candidates, so that a text differs
from the blind one only by the pick, and the difference of their NLLs is paired.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.distillation import compasses
from tsdfm_jax.evaluation import judging, text_metrics
from tsdfm_jax.experiments.study import arms as study_arms
from tsdfm_jax.flow import jump, path as paths, sampler, shaping
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.runtime import hosts, mesh as meshes, metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import trained

FILE = "compass.json"
EVERYWHERE = -1  # stands for every midpoint
CANDIDATES = (2, 4, 8, 16)
OTHER_CANDIDATES = 8  # K for compasses other than the config's
BLIND = f"reference:{EVERYWHERE}:1"
SEED = 8000
TRAINED = ("nce", "distilled")


def scorers(config):
    """{name: the arm that the compass comes from}: the config's own first, then the arms of factors `compass` and `coins`."""
    arms = study_arms.ablations(config)
    reference = [arm for arm in arms if arm.name == "reference"]
    return {arm.name: arm for arm in reference + [arm for arm in arms if arm.factor in ("compass", "coins")]}


def cells(config):
    """{compass: [(midpoint, K)]} of every cell: the config's own compass at every K, the others at K = OTHER_CANDIDATES."""
    steps = range(config.compass.steered_steps)
    by_compass = {name: [(midpoint, OTHER_CANDIDATES) for midpoint in (EVERYWHERE, *steps)] for name in scorers(config)}
    by_compass["reference"] = [(EVERYWHERE, 1)] + [(midpoint, k) for k in CANDIDATES for midpoint in (EVERYWHERE, *steps)]
    return by_compass


def measure(study, source):
    """Write `compass.json` into the source's directory, one row a cell; keeps the rows that it already has."""
    base, file = study.base(source), study.root / source / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(file.read_text()) if file.exists() else {}
    wanted = {
        name: compass_cells for name, compass_cells in cells(base.config).items() if _compass_run(study, source, name) is not None
    }
    todo = [(name, *cell) for name, compass_cells in wanted.items() for cell in compass_cells if _key(name, *cell) not in rows]
    todo.sort(key=_later)
    if not todo:
        return
    config, mesh = base.config, settings.mesh(base.config)
    teacher = trained.teacher(config, base.workdir, mesh)
    judges = [judging.trained_judge(config, base.workdir, mesh, i) for i in ("pilot", *range(len(config.judges.widths)))]
    programs = {}
    with signals.stopping(), metrics_lib.progress(f"compass {source}", len(todo), "cell") as bar:
        for name, midpoint, k in todo:
            if signals.stop_agreed():
                raise KeyboardInterrupt
            if (name, k) not in programs:
                programs = {(name, k): _program(study, source, name, k, teacher, mesh)}
            texts = [programs[name, k](np.int32(first), np.int32(midpoint)) for first in _firsts(config)]
            rows[_key(name, midpoint, k)] = _row(name, midpoint, k, config, np.concatenate(texts), judges, mesh)
            atomic.overwrite(file, atomic.json_text(atomic.finite(rows), indent=1))
            bar.advance(1)


def _later(cell):
    """Whether a cell comes last: a single pick by a compass other than the config's."""
    name, midpoint, _ = cell
    return name != "reference" and midpoint != EVERYWHERE


def _firsts(config):
    return range(0, config.compass.steered_samples, config.compass.batch)


def _key(name, midpoint, k):
    return f"{name}:{midpoint}:{k}"


def _compass_run(study, source, name):
    """The run that the compass comes from; None if the compass needs training and is not trained."""
    config = study.config_of(source)
    arm = scorers(config)[name]
    run = study.run(arm, source, study.seeds[0])
    if arm.overrides.get("compass.kind", config.compass.kind) not in TRAINED:
        return run
    return run if bookkeeping.done(run.workdir / "compass") is not None else None


def _program(study, source, name, k, teacher, mesh):
    """The jitted `(first, midpoint) -> x_BL`: the teacher's texts `first`, `first` + 1, …"""
    run = _compass_run(study, source, name)
    config = run.config.copy_and_resolve_references()
    config.compass.steered_steps = study.base(source).config.compass.steered_steps
    is_trained = config.compass.kind in TRAINED
    params = trained.compass(run.config, run.workdir, mesh)[0] if is_trained else None
    text_vocab = trained.tokenizer(config, study.base(source).workdir).vocab_size
    path, build = settings.path(config, text_vocab), compasses.make(config, settings.path(config, text_vocab))
    sample = lambda *inputs: steered_texts(config, path, teacher.apply, build, *inputs, k)
    shardings = dict(in_shardings=(None, None, None), out_shardings=meshes.batch_sharding(mesh))
    jitted = meshes.seeded(mesh, sample, config.seed + SEED, **shardings)
    weights = {"teacher": teacher.params, "compass": params}
    return lambda *cell: hosts.gather(jitted(weights, *cell))


def steered_texts(config, path, teacher, build, seed, weights, first, midpoint, k):
    """Final texts x_BL of the teacher, keeping the best of the first k candidates at `midpoint` alone (or EVERYWHERE)."""
    steps = config.compass.steered_steps
    key_B = sampler.sample_keys(seed, first, config.compass.batch)
    source_key_B, jumps_key_B = paths.split(key_B)
    posterior = lambda x_BL, t_B, h_B: teacher(weights["teacher"], x_BL, t_B, h_B)
    width_B = jnp.full(key_B.shape, 1.0 / steps)
    energy = build(weights["compass"], posterior, width_B)
    shaping_cfg = settings.shaped(config, candidates=k, tau=0.0)

    def step(i, x_BL):
        t_B, arrive_B = jnp.full_like(width_B, i / steps), jnp.full_like(width_B, (i + 1) / steps)
        move = jump.prepare(path, config.flow.jump, posterior(x_BL, t_B, width_B), x_BL, t_B, width_B)
        jump_key_B, _ = paths.split(paths.fold(jumps_key_B, i))  # as in shaping.shaped_jump

        def best():
            cand_BKL, energy_BK, _ = shaping.candidates(jump_key_B, move, arrive_B, energy, shaping_cfg)
            return jnp.take_along_axis(cand_BKL, jnp.argmin(energy_BK, axis=1)[:, None, None], axis=1)[:, 0]

        blind = lambda: jump.land(paths.fold(jump_key_B, 0), move)[0]
        return jax.lax.cond((i == midpoint) | (midpoint == EVERYWHERE), best, blind)

    return jax.lax.fori_loop(0, steps, step, paths.sample_source(source_key_B, path, config.data.length))


def _row(name, midpoint, k, config, x_NL, judges, mesh):
    """A cell's row: its texts' entropy and, by each judge, their perplexity and the NLL of every text for paired differences."""
    x_NL = x_NL[: config.compass.steered_samples]
    row = {"compass": name, "candidates": k, "samples": len(x_NL), "length": x_NL.shape[1]}
    row["arrives"] = None if midpoint == EVERYWHERE else (midpoint + 1) / config.compass.steered_steps
    row["entropy_nats"] = float(text_metrics.entropy_nats_N(x_NL).mean())
    row["judges"] = {}
    for judge in judges:
        nll_N, tokens_N = judging.nll(judge, list(x_NL), config.compass.batch, mesh)
        row["judges"][judge.name] = text_metrics.perplexity(nll_N, tokens_N) | {"nll": [round(float(x), 3) for x in nll_N]}
    return row


def paired(row, blind, judge):
    """(ratio, low, high): a cell's perplexity over the blind one's, with a normal 95 % interval of the paired difference."""
    difference_N = np.array(row["judges"][judge]["nll"]) - np.array(blind["judges"][judge]["nll"])
    mean, error = difference_N.mean() / row["length"], difference_N.std(ddof=1) / len(difference_N) ** 0.5 / row["length"]
    return tuple(float(np.exp(mean + z * error)) for z in (0.0, -1.96, 1.96))

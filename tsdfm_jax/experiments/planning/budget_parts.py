"""The computation of each stage of a config: its programs, how often they run, and the FLOPs of their matrix products.

FLOPs follow from the config alone. Rematerialisation, norms, softmax and draws do not count. `report` and `sample` are left
out because they make only a few texts, `tokenizer` and `data` because they run on the CPU.
"""

import functools
from typing import NamedTuple

from tsdfm_jax.experiments.planning import aot_compile, model_flops

BLIND = {"shaping.candidates": 1}


class Part(NamedTuple):
    """A part of a stage: `runs` runs of a program of `flops` (of all devices) each.

    `program` is its name in results/aot.json, "" if it is not compiled there.
    """

    name: str
    runs: int
    flops: float
    program: str = ""


def judge_flops(config, text_vocab, name):
    """FLOPs of one pass of a judge over one window, including its head, which is the embedding."""
    from tsdfm_jax.config import settings

    return _causal_flops(settings.judge(config, name, text_vocab), config.data.length)


@functools.cache
def _causal_flops(cfg, length):
    import jax

    from tsdfm_jax.models import causal
    from tsdfm_jax.runtime import mesh as meshes

    params = meshes.unbox(jax.eval_shape(lambda: causal.init(jax.random.key(0), cfg)))
    attention = 4 * length**2 * cfg.width * cfg.blocks
    return model_flops.forward(params, cfg.width, length) + 2 * cfg.vocab * cfg.width * length + attention


def judge_names(config):
    return [*range(len(config.judges.widths)), "pilot"]


def elbo_windows(config):
    """Windows that a network's held-out ELBO reads, over all its rounds."""
    from tsdfm_jax.evaluation import elbo

    return elbo.ROUNDS * -(-config.teacher.heldout // config.teacher.batch) * config.teacher.batch


def judges(config, text_vocab):
    """Every judge's training, forward and backward."""
    flops_of = {name: judge_flops(config, text_vocab, name) for name in judge_names(config)}
    updates = config.judges.optimiser.steps
    return [Part(f"judge {name}", updates, 3 * config.judges.batch * flops) for name, flops in flops_of.items()]


def teacher(config, text_vocab):
    """The teacher's updates, and its held-out ELBO every evaluate_every updates; only the ELBO if teacher.path loads it."""
    steps, forward = config.teacher.optimiser.steps, model_flops.window(config, text_vocab, "teacher")
    evaluations = 1 if config.teacher.path else -(-steps // config.evaluate_every)
    elbo = Part("teacher's held-out ELBO", evaluations, elbo_windows(config) * forward)
    if config.teacher.path:
        return [elbo]
    return [Part("teacher", steps, model_flops.program(config, text_vocab, "teacher"), "teacher"), elbo]


def autoregressive(config, text_vocab):
    """The autoregressive model's updates."""
    from tsdfm_jax.config import settings

    c = config.autoregressive
    forward = _causal_flops(settings.autoregressive(config, text_vocab), config.data.length)
    return [Part("autoregressive", c.optimiser.steps, 3 * c.batch * forward)]


def trajectory_flops(config, text_vocab, jumps, **more):
    """FLOPs of one whole trajectory of `jumps` jumps under the config's shaping, with further settings."""
    changes = {"trajectories.midpoints": jumps, "student.target": "endpoint", **more}
    changed = aot_compile.with_settings(config, changes)
    return model_flops.program(changed, text_vocab, "trajectories") / changed.trajectories.batch


def compass(config, text_vocab):
    """Training of a trained compass; its evaluation at every step size; the steered texts, blind and chosen three ways."""
    from tsdfm_jax.config import settings
    from tsdfm_jax.flow import chain, lookahead

    c, links = config.compass, len(chain.CHAINS[config.trajectories.chain].links)
    forward = model_flops.window(config, text_vocab, "teacher")
    ahead = (1 + lookahead.hides(config.flow.source == "mask", c.score)) * forward
    light = model_flops.window(config, text_vocab, "compass") if c.kind != "lookahead" else 0
    score = light or ahead
    pair = links * (forward + 2 * score + (ahead if c.kind == "distilled" else 0))
    parts = [Part("compass's evaluation", len(settings.STEP_SIZES) * -(-c.heldout // c.batch), c.batch * pair)]
    steered = 3 * trajectory_flops(config, text_vocab, c.steered_steps) + trajectory_flops(
        config, text_vocab, c.steered_steps, **BLIND
    )
    parts.append(Part("compass's steered texts", -(-c.steered_samples // c.batch), c.batch * steered))
    if c.kind == "lookahead":
        return parts
    trained = {"nce": 6 * light, "distilled": 3 * light + ahead}[c.kind]
    return [Part("compass", c.optimiser.steps, c.batch * (links * forward + trained)), *parts]


def trajectories(config, text_vocab):
    """The trajectories that the students need, in every round, in whole shards."""
    from tsdfm_jax.config import networks

    c = config.trajectories
    runs, parts = config.rounds * -(-c.count // c.shard) * (c.shard // c.batch), []
    names = [name for name in model_flops.passes(config) if name.startswith("trajectories")]
    for name in names:
        kind = name.removeprefix("trajectories").replace("/", ", ")
        shaped = Part(f"shaped trajectories{kind}", runs, model_flops.program(config, text_vocab, name), name)
        blind = model_flops.program(aot_compile.with_settings(config, BLIND), text_vocab, name)
        by_variant = {"shaped": shaped, "blind": Part(f"blind trajectories{kind}", runs, blind)}
        parts += [by_variant[variant] for variant in networks.variants(config)]
    return parts


def student(config, text_vocab):
    """One student for each set of trajectories, in every round."""
    from tsdfm_jax.config import networks

    steps, flops = config.rounds * config.student.optimiser.steps, model_flops.program(config, text_vocab, "student")
    return [Part(f"student, {variant}", steps, flops, "student") for variant in networks.variants(config)]


def evaluate(config, text_vocab):
    """Sampling of every set; all judges on all sets, the last judge twice; the ELBO. Pretrained judges do not count."""
    from tsdfm_jax.config import networks, settings
    from tsdfm_jax.evaluation import text_sets

    c, sets, models = config.evaluate, text_sets.wanted(config), networks.models(config)
    forward = {name: model_flops.window(config, text_vocab, name) for name in ("teacher", "student")}
    parts, calls = [], -(-c.samples // c.batch)
    for name, flops in forward.items():
        steps = sum(text_set.steps for text_set in sets if text_set.model.split("_")[0] == name)
        parts.append(Part(f"sampling, {name}", calls * steps, c.batch * flops))
    causal = _causal_flops(settings.autoregressive(config, text_vocab), config.data.length)
    texts = sum(text_set.model == "autoregressive" for text_set in sets)  # with the cache, a text costs one pass
    parts.append(Part("sampling, autoregressive", calls * texts, c.batch * causal))
    judge_costs = [judge_flops(config, text_vocab, name) for name in judge_names(config)[:-1]]
    parts.append(Part("judging", len(sets) * calls, c.batch * (sum(judge_costs) + judge_costs[-1])))
    parts.append(Part("students' ELBO", len(networks.variants(config)), elbo_windows(config) * forward["student"]))
    parts.append(Part("autoregressive model's likelihood", "autoregressive" in models, config.teacher.heldout * causal))
    return [part for part in parts if part.runs]


STAGES = {"judges": judges, "teacher": teacher, "autoregressive": autoregressive, "compass": compass}
STAGES |= {"trajectories": trajectories, "student": student, "evaluate": evaluate}

"""From the ConfigDict that a stage is given to the frozen dataclasses that the rooms take."""

import dataclasses

from tsdfm_jax.data import corpus, windows
from tsdfm_jax.flow import chain, jump, losses, path as paths, sampler, shaping
from tsdfm_jax.models import causal, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states

TARGETS = {"chain": ("chain",), "endpoint": ("whole",), "mixed": ("chain", "whole")}
COMPASSES = ("nce", "lookahead", "distilled")
STEP_SIZES = tuple(2.0**-k for k in range(11))


def fill(cls, section, **more):
    """A frozen dataclass from those keys of a config section that are its fields."""
    names = {field.name for field in dataclasses.fields(cls)} - set(more)
    return cls(**{name: section[name] for name in section if name in names}, **more)


def choose(key, value, allowed):
    """`value`, or one line that names the key and lists what it may be."""
    if value not in allowed:
        raise ValueError(f"{key} '{value}' is not one of {', '.join(map(str, allowed))}")
    return value


def mesh(config):
    """The device mesh of the config."""
    return meshes.make_mesh(fill(meshes.MeshConfig, config.mesh))


def corpus_config(config):
    """Where the text comes from."""
    return fill(corpus.CorpusConfig, config.data)


def windows_config(config):
    """How it is cut."""
    return fill(windows.WindowsConfig, config.data, seed=config.seed)


def path(config, symbols):
    """The path from noise to data over a text vocabulary of `symbols`."""
    return fill(paths.Path, config.flow, symbols=symbols)


def network(config, vocab, *, step_conditioned=False):
    """The teacher's network, or the student's."""
    return fill(transformer.TransformerConfig, config.model, vocab=vocab, step_conditioned=step_conditioned)


def compass_network(config, vocab):
    """The light network of the compasses that are trained."""
    c = config.compass
    if c.from_teacher and c.width != config.model.width:
        raise ValueError(
            f"compass.width {c.width} is not model.width {config.model.width}, so that it cannot start from the teacher: "
            f"make them equal or set compass.from_teacher=False"
        )
    if c.from_teacher and c.blocks > config.model.blocks:
        raise ValueError(
            f"compass.blocks {c.blocks} exceeds model.blocks {config.model.blocks}: the teacher has no more to start from"
        )
    shape = dict(blocks=c.blocks, width=c.width, heads=c.heads, dropout=0.0)
    return fill(transformer.TransformerConfig, config.model, vocab=vocab, **shape)


def judge(config, number, vocab):
    """The judge of that number; the pilot (`number` is "pilot") has the shape of judges.pilot."""
    c = config.judges
    i = c.pilot if number == "pilot" else number
    shape = dict(blocks=c.blocks[i], width=c.widths[i], heads=c.heads[i], dropout=c.dropout)
    return fill(causal.CausalConfig, config.model, vocab=vocab, length=config.data.length, **shape)


def optimiser(section):
    """Optimiser and schedule of a section that trains."""
    return fill(states.OptimiserConfig, section.optimiser)


def shaped(config, **overrides):
    """How candidates are chosen."""
    return fill(shaping.ShapingConfig, config.shaping, **overrides)


def sampler_config(config, section):
    """How text is sampled by a section that has temperature and top_p."""
    return fill(sampler.SamplerConfig, section, jump=config.flow.jump)


def validate(config):
    """Look at every choice of a config before anything is computed: raises ValueError, one line, for the first that is off."""
    jump.check(config.flow.jump)
    choose("trajectories.chain", config.trajectories.chain, chain.CHAINS)
    choose("student.target", config.student.target, TARGETS)
    choose("student.evaluator", config.student.evaluator, ("ema", "teacher"))
    choose("compass.kind", config.compass.kind, COMPASSES)
    choose("compass.score", config.compass.score, ("nll", "entropy"))
    losses.check(config.teacher.loss)
    losses.check(config.student.loss)
    for name in ("compass", "student"):
        weights = config[name].step_weights
        if len(weights) != len(STEP_SIZES) or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(
                f"{name}.step_weights {tuple(weights)} must be {len(STEP_SIZES)} non-negative numbers, for h = 1, 1/2, … 1/1024"
            )
    if config.student.target != "chain" and (s := config.trajectories.midpoints) & (s - 1):
        raise ValueError(f"trajectories.midpoints {s} is not a power of two, so that no step size fits its times")
    sizes = {len(config.judges[k]) for k in ("widths", "blocks", "heads")}
    if len(sizes) != 1 or not 0 <= config.judges.pilot < sizes.pop():
        raise ValueError(
            f"judges.widths, blocks and heads must be of one length, and judges.pilot {config.judges.pilot} one of their places"
        )
    if config.rounds < 1:
        raise ValueError(f"rounds {config.rounds} must be at least 1")
    path(config, 2), network(config, 8), shaped(config), windows_config(config), corpus_config(config)
    sampler_config(config, config.evaluate), sampler_config(config, config.sample)
    if config.compass.kind != "lookahead":
        compass_network(config, 8)
    for section in (config.teacher, config.judges, config.compass, config.student):
        optimiser(section)
    device_mesh = mesh(config)
    for name in ("teacher", "judges", "compass", "trajectories", "student", "evaluate"):
        meshes.require_divides(config[name].batch, device_mesh, f"{name}.batch")
    meshes.require_divides(config.trajectories.shard, device_mesh, "trajectories.shard")

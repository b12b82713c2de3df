"""From the ConfigDict that a stage is given to the frozen dataclasses that the rooms take."""

import dataclasses

from tsdfm_jax.config import networks
from tsdfm_jax.data import corpus, window_config
from tsdfm_jax.flow import path as paths, sampler, shaping
from tsdfm_jax.models import causal, sizes, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states

TARGETS = {"chain": ("chain",), "endpoint": ("whole",), "mixed": ("chain", "whole")}
COMPASSES = ("nce", "lookahead", "distilled")
STEP_SIZES = tuple(2.0**-k for k in range(11))
LARGEST = 2**31 - 1
STUDENT_SEEDS = 100_000  # how far apart they are, beyond any seed of a round or a stage


def fill(cls, section, **more):
    """A frozen dataclass from those keys of a config section that are its fields."""
    names = {field.name for field in dataclasses.fields(cls)} - set(more)
    return cls(**{name: section[name] for name in section if name in names}, **more)


def choose(key, value, allowed):
    """`value`, or one line that names the key and lists what it may be."""
    if value not in allowed:
        raise ValueError(f"{key} {value!r} is not one of {', '.join(map(str, allowed))}")
    return value


def mesh(config):
    """The device mesh of the config."""
    return meshes.make_mesh(fill(meshes.MeshConfig, config.mesh))


def corpus_config(config):
    """Where the text comes from."""
    return fill(corpus.CorpusConfig, config.data)


def windows_config(config):
    """How it is cut."""
    return fill(window_config.WindowsConfig, config.data, seed=config.seed)


def path(config, text_vocab):
    """The path from noise to data over a text vocabulary of `text_vocab` tokens."""
    return fill(paths.Path, config.flow, text_vocab=text_vocab)


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


def autoregressive(config, text_vocab):
    """The autoregressive model over a text vocabulary of `text_vocab` tokens, with as many blocks as `autoregressive.blocks` says."""
    c = config.autoregressive
    if c.width % c.heads:
        raise ValueError(f"autoregressive.width {c.width} does not split into autoregressive.heads {c.heads}: change one of them")
    if not 0.0 <= c.dropout < 1.0:
        raise ValueError(f"autoregressive.dropout {c.dropout} must be in [0, 1)")
    shape = dict(width=c.width, heads=c.heads, dropout=c.dropout, length=config.data.length)
    make = lambda blocks: fill(causal.CausalConfig, config.model, vocab=text_vocab, blocks=blocks, **shape)
    most = sizes.transformer(network(config, path(config, text_vocab).vocab))
    return make(c.blocks or sizes.nearest_blocks(make(1), most))


def optimiser(section):
    """Optimiser and schedule of a section that trains."""
    return fill(states.OptimiserConfig, section.optimiser)


def shaped(config, **overrides):
    """How candidates are chosen."""
    return fill(shaping.ShapingConfig, config.shaping, **overrides)


def sampler_config(config, section, **overrides):
    """How text is sampled by a section that has temperature and top_p."""
    return fill(sampler.SamplerConfig, section, jump=config.flow.jump, **overrides)


def listed(value):
    """The parts of a comma-separated string."""
    return [part.strip() for part in value.split(",") if part.strip()]


def frontier(config):
    """The (model, steps) whose temperature is swept; ValueError for what is none."""
    found = []
    for part in listed(config.evaluate.frontier):
        model, _, steps = part.partition(":")
        if model not in networks.MODELS or not steps.isdecimal() or not 1 <= int(steps) <= LARGEST:
            raise ValueError(
                f"evaluate.frontier {part!r} is not a model ({', '.join(networks.MODELS)}) and a number of steps: teacher:8"
            )
        if int(steps) != (only := networks.evaluations(config, model, int(steps))):
            raise ValueError(f"evaluate.frontier {part!r}: the autoregressive model takes one step a token, say {model}:{only}")
        found.append((model, int(steps)))
    return found


def student_seed(config):
    """The seed of trajectories and students; trajectories.seed sets apart those of one teacher."""
    return config.seed + STUDENT_SEEDS * config.trajectories.seed


def of_round(config, round_number):
    """The config as a round's records and losses see it: with `student.progressive` its steps are of one size."""
    if not config.student.progressive:
        return config
    found = config.copy_and_resolve_references()
    h = 2.0 ** (round_number + 1) / config.student.progressive
    found.student.step_weights = tuple(float(size == h) for size in STEP_SIZES)
    return found

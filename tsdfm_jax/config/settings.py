"""From a stage's ConfigDict to the frozen dataclasses of the other packages."""

import dataclasses

from tsdfm_jax.config import networks
from tsdfm_jax.data import corpus, window_config
from tsdfm_jax.flow import path as paths, sampler, shaping
from tsdfm_jax.models import causal, sizes, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states

TARGETS = {"chain": ("chain",), "endpoint": ("whole",), "mixed": ("chain", "whole")}
COMPASSES = ("nce", "lookahead", "distilled")
STEP_SIZES = tuple(2.0**-k for k in range(11))
LARGEST_INTEGER = 2**31 - 1
STUDENT_SEEDS = 100_000  # seeds of two values of trajectories.seed lie this far apart: more than any stage or round adds


def fill(cls, section, **more):
    """Make a frozen dataclass from the keys of a config section that are its fields, and from `more`."""
    names = {field.name for field in dataclasses.fields(cls)} - set(more)
    return cls(**{name: section[name] for name in section if name in names}, **more)


def choose(key, value, allowed):
    """Return `value`; raise ValueError, one line with the key and the allowed values, if it is not allowed."""
    if value not in allowed:
        raise ValueError(f"{key} {value!r} is not one of {', '.join(map(str, allowed))}")
    return value


def mesh(config):
    """The device mesh of the config."""
    return meshes.make_mesh(fill(meshes.MeshConfig, config.mesh))


def corpus_config(config):
    """The source of the text."""
    return fill(corpus.CorpusConfig, config.data)


def windows_config(config):
    """How the text is cut into windows."""
    return fill(window_config.WindowsConfig, config.data, seed=config.seed)


def path(config, text_vocab):
    """The path from noise to data over a text vocabulary of `text_vocab` tokens."""
    return fill(paths.Path, config.flow, text_vocab=text_vocab)


def network(config, vocab, *, step_conditioned=False):
    """The teacher's network, or the student's."""
    return fill(transformer.TransformerConfig, config.model, vocab=vocab, step_conditioned=step_conditioned)


def compass_network(config, vocab):
    """The light network of a trained compass (`nce` or `distilled`)."""
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
    """The shape of judge `number`; the pilot (`number` is "pilot") has that of judge `judges.pilot`."""
    c = config.judges
    i = c.pilot if number == "pilot" else number
    shape = dict(blocks=c.blocks[i], width=c.widths[i], heads=c.heads[i], dropout=c.dropout)
    return fill(causal.CausalConfig, config.model, vocab=vocab, length=config.data.length, **shape)


def autoregressive(config, text_vocab):
    """The autoregressive model over a text vocabulary of `text_vocab` tokens; `autoregressive.blocks` sets its blocks."""
    c = config.autoregressive
    if c.width % c.heads:
        raise ValueError(f"autoregressive.width {c.width} does not split into autoregressive.heads {c.heads}: change one of them")
    if not 0.0 <= c.dropout < 1.0:
        raise ValueError(f"autoregressive.dropout {c.dropout} must be in [0, 1)")
    shape = dict(width=c.width, heads=c.heads, dropout=c.dropout, length=config.data.length)
    make = lambda blocks: fill(causal.CausalConfig, config.model, vocab=text_vocab, blocks=blocks, **shape)
    teacher_parameters = sizes.transformer(network(config, path(config, text_vocab).vocab))
    return make(c.blocks or sizes.nearest_blocks(make(1), teacher_parameters))


def optimiser(section):
    """Optimiser and schedule of a section that trains a network."""
    return fill(states.OptimiserConfig, section.optimiser)


def shaped(config, **overrides):
    """How candidates are chosen."""
    return fill(shaping.ShapingConfig, config.shaping, **overrides)


def sampler_config(config, section, **overrides):
    """How text is sampled with the temperature and top_p of a section."""
    return fill(sampler.SamplerConfig, section, jump=config.flow.jump, **overrides)


def comma_list(value):
    """The parts of a comma-separated string."""
    return [part.strip() for part in value.split(",") if part.strip()]


def frontier(config):
    """The (model, steps) of `evaluate.frontier`; ValueError for an entry that is not one."""
    pairs = []
    for part in comma_list(config.evaluate.frontier):
        model, _, steps = part.partition(":")
        if model not in networks.MODELS or not steps.isdecimal() or not 1 <= int(steps) <= LARGEST_INTEGER:
            raise ValueError(
                f"evaluate.frontier {part!r} is not a model ({', '.join(networks.MODELS)}) and a number of steps: teacher:8"
            )
        if int(steps) != (expected := networks.evaluations(config, model, int(steps))):
            raise ValueError(f"evaluate.frontier {part!r}: the autoregressive model takes one step a token, say {model}:{expected}")
        pairs.append((model, int(steps)))
    return pairs


def student_seed(config):
    """The seed of trajectories and students; it depends on trajectories.seed, so that one teacher can have several sets."""
    return config.seed + STUDENT_SEEDS * config.trajectories.seed


def of_round(config, round_number):
    """The config for a round's records and losses: with `student.progressive` the round has a single step size."""
    if not config.student.progressive:
        return config
    round_config = config.copy_and_resolve_references()
    h = 2.0 ** (round_number + 1) / config.student.progressive
    round_config.student.step_weights = tuple(float(size == h) for size in STEP_SIZES)
    return round_config

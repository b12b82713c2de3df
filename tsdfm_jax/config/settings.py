"""From the ConfigDict that a stage is given to the frozen dataclasses that the rooms take."""

import dataclasses

from tsdfm_jax.config import networks
from tsdfm_jax.data import corpus, prompts, window_config
from tsdfm_jax.flow import chain, jump, lookahead, losses, path as paths, sampler, shaping
from tsdfm_jax.models import attention, causal, sizes, transformer
from tsdfm_jax.runtime import mesh as meshes, state as states

TARGETS = {"chain": ("chain",), "endpoint": ("whole",), "mixed": ("chain", "whole")}
COMPASSES = ("nce", "lookahead", "distilled")
STEP_SIZES = tuple(2.0**-k for k in range(11))
# Whole numbers are at least 1, but for these (by their full key, or its end), and at most LARGEST, but for those.
LEAST = {"seed": 0, "evaluate.seeds": 0, "data.limit_bytes": 0, "shaping.chunk": 0, "judges.pilot": 0, "warmup": 0}
LEAST |= {"evaluate.judge_batch": 0, "report.traces": 0, "autoregressive.blocks": 0, "student.progressive": 0}
LEAST |= {"mesh.data": -1, "mesh.fsdp": -1, "mesh.tensor": -1, "sample.length": 0, "data.workers": 0}
LARGEST = 2**31 - 1
MOST = {"data.limit_bytes": 2**63 - 1, "tokenizer.train_bytes": 2**63 - 1, "data.workers": 1024}
MOST |= {"rounds": 1000, "shaping.candidates": 2**15 - 1}  # a round has a seed of its own; an index is an int16
MOST |= {"student.progressive": 1024}
MOST |= {"sample.number": prompts.BOUNDS["number"][1], "sample.batch": 2**16}
FLAGS = ("compass.from_teacher", "sample.states", "sample.live")
STUDENT_SEEDS = 100_000  # how far apart they are, beyond any seed of a round or a stage
LINES = ("sample.prompt", "sample.suffix", "sample.infill")  # text that may have several
TINY, HUGE = 1e-30, 1e30  # what float32 holds, with room to divide by


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


def autoregressive(config, symbols):
    """The autoregressive model over a text vocabulary of `symbols`, with as many blocks as `autoregressive.blocks` says."""
    c = config.autoregressive
    if c.width % c.heads:
        raise ValueError(f"autoregressive.width {c.width} does not split into autoregressive.heads {c.heads}: change one of them")
    if not 0.0 <= c.dropout < 1.0:
        raise ValueError(f"autoregressive.dropout {c.dropout} must be in [0, 1)")
    shape = dict(width=c.width, heads=c.heads, dropout=c.dropout, length=config.data.length)
    make = lambda blocks: fill(causal.CausalConfig, config.model, vocab=symbols, blocks=blocks, **shape)
    most = sizes.transformer(network(config, path(config, symbols).vocab))
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
            raise ValueError(f"evaluate.frontier {part!r}: the autoregressive model takes one step a symbol, say {model}:{only}")
        found.append((model, int(steps)))
    return found


def validate(config):
    """Look at every choice of a config before anything is computed: raises ValueError, one line, for the first that is off."""
    for key, value in leaves(config):
        check_value(key, value)
    networks.check_models(config, [model for model, _ in frontier(config)])
    check_choices(config)
    check_trajectories(config)
    check_progressive(config)
    check_sample(config)
    path(config, 2), network(config, 8), shaped(config), windows_config(config), corpus_config(config)
    sampler_config(config, config.evaluate), sampler_config(config, config.sample)
    for name in (*range(len(config.judges.widths)), "pilot"):
        judge(config, name, 8)
    if config.compass.kind != "lookahead":
        compass_network(config, 8)
    autoregressive(config, 8)
    device_mesh = mesh(config)
    check_batches(config, device_mesh)
    attention.check_devices(config.model.attention, device_mesh.devices.flat[0].platform, config.data.length)


def leaves(section, at=""):
    """Every (dotted key, value) of a config."""
    for name, value in section.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def check_value(key, value):
    """What holds of every key: it has a value, strings are one line, numbers are not out of reach."""
    if value is None:
        raise ValueError(f"{key} has no value: leave it out, and it has its default")
    if isinstance(value, str) and key not in LINES and len(value.splitlines()) > 1:
        raise ValueError(f"{key} {value!r} must be one line")
    if isinstance(value, str) or key in FLAGS or key == "models":
        return
    if key.endswith("weights"):
        if not all(type(x) in (int, float) and (x == 0 or TINY <= x <= HUGE) for x in value) or not any(value):
            raise ValueError(f"{key} {value} must each be 0 or a number from {TINY} to {HUGE}, and not all of them 0")
        return
    if key.endswith("temperatures"):
        if not all(type(x) in (int, float) and TINY <= x <= HUGE for x in value):
            raise ValueError(f"{key} {value} must each be a number from {TINY} to {HUGE}")
        return
    least = next((least for name, least in LEAST.items() if f".{key}.".endswith(f".{name}.")), 1)
    most = MOST.get(key, LARGEST)
    for x in value if isinstance(value, tuple) else (value,):
        if isinstance(x, float) and not isinstance(value, tuple):
            if x != 0 and not TINY <= abs(x) <= HUGE:
                raise ValueError(f"{key} {x} must be 0 or a number of a size from {TINY} to {HUGE}")
        elif type(x) is not int or not least <= x <= most:
            raise ValueError(f"{key} {value!r} must be a whole number, at least {least} and at most {most:,}")


def check_choices(config):
    """Every name is one of those there are, and every list as long as it must be."""
    jump.check(config.flow.jump)
    choose("trajectories.chain", config.trajectories.chain, chain.CHAINS)
    choose("student.target", config.student.target, TARGETS)
    choose("student.evaluator", config.student.evaluator, ("ema", "teacher", "generator"))
    choose("compass.kind", config.compass.kind, COMPASSES)
    choose("compass.score", config.compass.score, lookahead.SCORES)
    losses.check(config.teacher.loss)
    losses.check(config.student.loss)
    for name in ("compass", "student"):
        if len(weights := config[name].step_weights) != len(STEP_SIZES):
            raise ValueError(f"{name}.step_weights {weights} must be {len(STEP_SIZES)} numbers, for h = 1, 1/2, … 1/1024")
    if len(config.student.weights) != 3:
        raise ValueError(f"student.weights {config.student.weights} must be 3 numbers: of chain, endpoint and data")
    if not 0.0 <= config.student.fresh <= 1.0:
        raise ValueError(f"student.fresh {config.student.fresh} is no share: take a number from 0 to 1")
    frontier(config)
    if not config.evaluate.seeds:
        raise ValueError("evaluate.seeds () is empty: the table needs one")
    sizes = {len(config.judges[k]) for k in ("widths", "blocks", "heads")}
    if len(sizes) != 1 or not 0 <= config.judges.pilot < sizes.pop():
        raise ValueError(
            f"judges.widths, blocks and heads must be of one length, and judges.pilot {config.judges.pilot} one of their places"
        )


def check_trajectories(config):
    """A trajectory's times fit the step sizes that a student draws, and shards are made of whole batches."""
    c, s = config.trajectories, config.trajectories.midpoints
    if c.shard % c.batch:  # the batches of one shard would reach into the next
        raise ValueError(f"trajectories.shard={c.shard} is not a multiple of trajectories.batch={c.batch}")
    if config.student.target == "chain":
        return
    if s & (s - 1):
        raise ValueError(f"trajectories.midpoints {s} is not a power of two, so that no step size fits its times")
    if not any(w for h, w in zip(STEP_SIZES, config.student.step_weights) if h * s >= 1):
        raise ValueError(
            f"student.step_weights {config.student.step_weights} have no weight on the steps that trajectories.midpoints {s} resolves"
        )
    if (size := 4 * (s + 1) * config.data.length) > LARGEST:
        raise ValueError(f"trajectories.midpoints {s} of data.length {config.data.length} make a record of {size:,} bytes")


def check_progressive(config):
    """Self-distillation's rounds halve a number of steps that there is, and its chain is a blind one."""
    n, last = config.student.progressive, 2**config.rounds
    if config.trajectories.chain == "sdtt" and "chain" in TARGETS[config.student.target]:
        if "shaped" in networks.variants(config) and config.shaping.candidates > 1:
            raise ValueError(
                f"trajectories.chain sdtt is blind, and shaping.candidates is {config.shaping.candidates}: set that to 1, or take "
                f"student_shaped out of models"
            )
    if not n:
        return
    if n & (n - 1) or n < last:
        raise ValueError(
            f"student.progressive {n} cannot be halved in {config.rounds} rounds: take a power of two from {last} to 1024"
        )
    if config.student.target != "chain":
        raise ValueError(
            f"student.progressive {n} needs student.target=chain, not {config.student.target}: the others have all steps"
        )


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


def check_sample(config):
    """What is to be written can be asked for, as far as that is known before there is a tokenizer."""
    c = config.sample
    ask = fill(prompts.Ask, c)
    if c.model == "autoregressive":
        prompts.check_left_to_right(ask)
    if c.length > config.data.length:
        raise ValueError(f"sample.length {c.length} exceeds data.length {config.data.length}, all that the model writes: lower it")
    if c.prompts:
        prompts.check_kind(c.prompts)
        for name in ("prompt", "suffix", "infill"):
            if c[name]:
                raise ValueError(f"sample.{name} {c[name]!r} cannot go with sample.prompts {c.prompts!r}: write it into that file")


def check_batches(config, device_mesh):
    """Every batch splits over the devices and its microbatches, and no measurement asks for less than one."""
    meshes.require_positions(config.data.length, device_mesh, "data.length")
    besides = ("autoregressive",) if networks.needs(config, "autoregressive") else ()  # what is not made may be of any size
    for name in ("teacher", *besides, "judges", "compass", "trajectories", "student", "evaluate"):
        meshes.require_divides(config[name].batch, device_mesh, f"{name}.batch")
    meshes.require_divides(config.evaluate.judge_batch or config.evaluate.batch, device_mesh, "evaluate.judge_batch")
    for name in ("teacher", *besides, "judges", "compass", "student"):
        parts = optimiser(config[name]).accumulate * meshes.batch_devices(device_mesh)
        if config[name].batch % parts:
            raise ValueError(
                f"{name}.batch={config[name].batch} is not divisible by {name}.optimiser.accumulate="
                f"{config[name].optimiser.accumulate} on {meshes.batch_devices(device_mesh)} devices: take a multiple of {parts}"
            )
    for name in ("teacher", "compass"):
        if config[name].heldout < config[name].batch:
            raise ValueError(f"{name}.heldout {config[name].heldout} is less than one {name}.batch {config[name].batch}")

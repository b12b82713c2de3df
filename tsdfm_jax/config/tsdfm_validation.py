"""Checks of the keys of TS-DFM: ranges, choices, and what must fit together."""

from tsdfm_jax.config import networks, settings, validation
from tsdfm_jax.data import prompts
from tsdfm_jax.flow import chain, jump, lookahead, losses, sampler
from tsdfm_jax.models import attention
from tsdfm_jax.runtime import mesh as meshes

# Exceptions of validation.Ranges, by full key or its end.
MINIMUM = {"seed": 0, "evaluate.seeds": 0, "data.limit_bytes": 0, "shaping.chunk": 0, "judges.pilot": 0, "warmup": 0}
MINIMUM |= {"evaluate.judge_batch": 0, "report.traces": 0, "autoregressive.blocks": 0, "student.progressive": 0}
MINIMUM |= {"mesh.data": -1, "mesh.fsdp": -1, "mesh.tensor": -1, "sample.length": 0, "data.workers": 0}
MAXIMUM = {"data.limit_bytes": 2**63 - 1, "tokenizer.train_bytes": 2**63 - 1, "data.workers": 1024}
MAXIMUM |= {"rounds": 1000, "shaping.candidates": 2**15 - 1}  # each round has its own seed; the index of a candidate is an int16
MAXIMUM |= {"student.progressive": 1024}
MAXIMUM |= {
    "trajectories.seed": 2**31 // settings.STUDENT_SEEDS - 1
}  # with any seed the sum is below 2^32, the most a key tells apart
MAXIMUM |= {"sample.number": prompts.BOUNDS["number"][1], "sample.batch": 2**16}
FLAGS = ("compass.from_teacher", "sample.states", "sample.live", "models")
MULTILINE = ("sample.prompt", "sample.suffix", "sample.infill")  # text that may have several lines
TINY, HUGE = sampler.TINY, sampler.HUGE


def check_weights(key, value):
    """Check a tuple of weights."""
    if not all(type(x) in (int, float) and (x == 0 or TINY <= x <= HUGE) for x in value) or not any(value):
        raise ValueError(f"{key} {value} must each be 0 or a number from {TINY} to {HUGE}, and not all of them 0")


def check_temperatures(key, value):
    """Check a tuple of temperatures."""
    if not all(type(x) in (int, float) and TINY <= x <= HUGE for x in value):
        raise ValueError(f"{key} {value} must each be a number from {TINY} to {HUGE}")


RANGES = validation.Ranges(
    minimum=MINIMUM,
    maximum=MAXIMUM,
    flags=FLAGS,
    multiline=MULTILINE,
    tuples={"weights": check_weights, "temperatures": check_temperatures},
)


def check(config):
    """Check choices, and what must fit together; raises ValueError, one line, for the first error."""
    networks.check_models(config, [model for model, _ in settings.frontier(config)])
    check_choices(config)
    check_trajectories(config)
    check_progressive(config)
    check_sample(config)
    (
        settings.path(config, 2),
        settings.network(config, 8),
        settings.shaped(config),
        settings.windows_config(config),
        settings.corpus_config(config),
    )
    settings.sampler_config(config, config.evaluate), settings.sampler_config(config, config.sample)
    for name in (*range(len(config.judges.widths)), "pilot"):
        settings.judge(config, name, 8)
    if config.compass.kind != "lookahead":
        settings.compass_network(config, 8)
    settings.autoregressive(config, 8)
    device_mesh = settings.mesh(config)
    check_batches(config, device_mesh)
    attention.check_devices(config.model.attention, device_mesh.devices.flat[0].platform, config.data.length)


def check_choices(config):
    """Check that every name is a known one, and that every list has the right length."""
    jump.check(config.flow.jump)
    settings.choose("trajectories.chain", config.trajectories.chain, chain.CHAINS)
    settings.choose("student.target", config.student.target, settings.TARGETS)
    settings.choose("student.evaluator", config.student.evaluator, ("ema", "teacher", "generator"))
    settings.choose("compass.kind", config.compass.kind, settings.COMPASSES)
    settings.choose("compass.score", config.compass.score, lookahead.SCORES)
    losses.check(config.teacher.loss)
    losses.check(config.student.loss)
    for name in ("compass", "student"):
        if len(weights := config[name].step_weights) != len(settings.STEP_SIZES):
            raise ValueError(f"{name}.step_weights {weights} must be {len(settings.STEP_SIZES)} numbers, for h = 1, 1/2, … 1/1024")
    if len(config.student.weights) != 3:
        raise ValueError(f"student.weights {config.student.weights} must be 3 numbers: of chain, endpoint and data")
    if not 0.0 <= config.student.fresh <= 1.0:
        raise ValueError(f"student.fresh {config.student.fresh} is no share: take a number from 0 to 1")
    if not 0.0 <= config.shaping.tau < 1.0:
        raise ValueError(f"shaping.tau {config.shaping.tau} leaves no trajectory to shape: take a number from 0, and below 1")
    if not 0.0 <= config.data.text_loss <= 1.0:
        raise ValueError(f"data.text_loss {config.data.text_loss} is no share: take a number from 0 to 1")
    settings.frontier(config)
    if not config.evaluate.seeds:
        raise ValueError("evaluate.seeds () is empty: the table needs one")
    check_lists(config)
    sizes = {len(config.judges[k]) for k in ("widths", "blocks", "heads")}
    if len(sizes) != 1 or not 0 <= config.judges.pilot < sizes.pop():
        raise ValueError(
            f"judges.widths, blocks and heads must be of one length, and judges.pilot {config.judges.pilot} one of their places"
        )


def check_lists(config):
    """Check that no list is empty that a stage takes a value from."""
    c = config.evaluate
    if not config.judges.widths:
        raise ValueError("judges.widths () is empty: the table needs one judge at least")
    if not c.student_steps and networks.variants(config) and config.report.traces:
        raise ValueError("evaluate.student_steps () is empty: give a number of steps, or set report.traces=0, which shows none")
    if settings.frontier(config) and not set(c.frontier_temperatures) - {c.temperature}:
        raise ValueError(
            f"evaluate.frontier_temperatures {c.frontier_temperatures} has none besides evaluate.temperature: give one, or leave "
            f"evaluate.frontier out"
        )
    temperatures = sorted({c.temperature, *c.frontier_temperatures})
    for low, high in zip(temperatures, temperatures[1:]):
        if f"{low:g}" == f"{high:g}":  # they name the files of their texts
            raise ValueError(
                f"evaluate.frontier_temperatures: {low!r} and {high!r} are equal in six digits (evaluate.temperature counts too): leave "
                f"one out"
            )


def check_trajectories(config):
    """Check that a trajectory's times fit the step sizes that a student draws, and that shards hold whole batches."""
    c, s = config.trajectories, config.trajectories.midpoints
    if c.shard % c.batch:  # a batch would cross the border between two shards
        raise ValueError(f"trajectories.shard={c.shard} is not a multiple of trajectories.batch={c.batch}")
    if config.student.target == "chain":
        return
    if s & (s - 1):
        raise ValueError(f"trajectories.midpoints {s} is not a power of two, so that no step size fits its times")
    if not any(w for h, w in zip(settings.STEP_SIZES, config.student.step_weights) if h * s >= 1):
        raise ValueError(
            f"student.step_weights {config.student.step_weights} have no weight on the steps that trajectories.midpoints {s} resolves"
        )
    if (size := 4 * (s + 1) * config.data.length) > settings.LARGEST_INTEGER:
        raise ValueError(f"trajectories.midpoints {s} of data.length {config.data.length} make a record of {size:,} bytes")


def check_progressive(config):
    """Check that the rounds can halve `student.progressive`, and that the `sdtt` chain is blind."""
    n, last = config.student.progressive, 2**config.rounds
    if config.trajectories.chain == "sdtt" and "chain" in settings.TARGETS[config.student.target]:
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


def check_sample(config):
    """Check the keys of `sample`, as far as that is possible without a tokenizer."""
    c = config.sample
    ask = settings.fill(prompts.Ask, c)
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
    """Check that every batch splits over devices and microbatches, and that held-out sets have at least one batch."""
    meshes.require_positions(config.data.length, device_mesh, "data.length")
    extra = ("autoregressive",) if networks.needs(config, "autoregressive") else ()  # a model that is not made may have any batch
    for name in ("teacher", *extra, "judges", "compass", "trajectories", "student", "evaluate"):
        meshes.require_divides(config[name].batch, device_mesh, f"{name}.batch")
    meshes.require_divides(config.evaluate.judge_batch or config.evaluate.batch, device_mesh, "evaluate.judge_batch")
    for name in ("teacher", *extra, "judges", "compass", "student"):
        validation.check_divides(config, name, device_mesh)
    for name in ("teacher", "compass"):
        if config[name].heldout < config[name].batch:
            raise ValueError(f"{name}.heldout {config[name].heldout} is less than one {name}.batch {config[name].batch}")

"""Estimate a config's cost before it is run: hours on a slice, memory of a device, disk.

    python -m launch.budget --config=configs/fineweb_170m.py --slice=v5e-16

The cost is computed from the config. Where results/aot.json has the same program, compiled for the same number of the same
chips, its hours are that program's least time, "ahead-of-time bound": no run can be faster. Elsewhere they are FLOPs of the
matrix products at a share of the chips' peak (--utilisation), "FLOP estimate". Neither includes compiling, reading, writing,
or tokenising the text on the CPU. Nothing is run.
"""

import functools
import importlib
import json
import math
import os
import pathlib
import re

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import aot_compile, budget_parts, chips, model_flops
from tsdfm_jax.storage import atomic

parse, fail = functools.partial(command_line.parse, "budget"), functools.partial(command_line.fail, "budget")
RESULTS = pathlib.Path(__file__).parents[3] / "results/aot.json"
# Peak in bfloat16 without sparsity, FLOP/s, from the vendors' data sheets; a v5p slice is named by its cores, two a chip.
PEAKS = {name: chip.flops for name, chip in chips.CHIPS.items()} | {"a100": 312e12, "h100": 989e12}
CORES = {"v5p": 2}
BOUND, ESTIMATE = "ahead-of-time bound", "FLOP estimate"
SAMPLE_10BT = 10_000_000_000  # GPT-2 tokens in FineWeb-Edu's sample-10BT, by its data card, rounded
TOKEN_TEXT = 4.5  # bytes of English text a token
# Bytes a parameter, all float32: weight, average and two moments; the average again, for use; a model alone.
STATE, USED, MODEL = 16, 4, 4
# Bytes in an ArrayRecord file: overhead a record, and block size; each file has one block more for its own data. Measured on
# files of 1,000 to 20,000 records. A trajectory has a checksum of 4 bytes.
MARGIN, BLOCK, CHECKSUM = 53, 65536, 4
METADATA_BYTES = 130  # bytes of metadata a text: model, steps, seed, temperature
KEPT_CHECKPOINTS = 2  # checkpoints of a network
# Keys that a compiled program depends on, beside the vocabulary; flow.source only through its FLOPs.
COMMON_KEYS = ("model", "mesh", "data.length", "flow.exponent", "flow.jump")
DEPENDS = {
    "teacher": (*COMMON_KEYS, "teacher.batch", "teacher.loss", "teacher.optimiser.accumulate"),
    "trajectories": (*COMMON_KEYS, "compass.kind", "compass.score", "shaping", "trajectories.midpoints", "trajectories.batch"),
    "student": (
        *COMMON_KEYS,
        "student.batch",
        "student.target",
        "student.loss",
        "student.evaluator",
        "student.optimiser.accumulate",
    ),
}


def slice_of(name):
    """(kind of chip, number of chips) of a slice, such as v5e-16, v5p-32 (16 chips of two cores) or h100-8. ValueError."""
    match = re.fullmatch(r"(\w+)-([1-9]\d*)", name)
    if not match or match[1] not in PEAKS or int(match[2]) % CORES.get(match[1], 1):
        raise ValueError(f"--slice={name} is not a chip ({', '.join(PEAKS)}) and how many of them: try v5e-16")
    return match[1], int(match[2]) // CORES.get(match[1], 1)


def value(config, key):
    """The plain value of a dotted key."""
    result = functools.reduce(lambda node, part: node[part], key.split("."), config)
    return result.to_dict() if hasattr(result, "to_dict") else result


@functools.cache
def compiled():
    """[(key, config, entry)] of results/aot.json: each compiled program with its config; none where there is no such file."""
    programs = []
    if not RESULTS.is_file():  # an installed package comes without results/
        return programs
    for key, entry in json.loads(RESULTS.read_text()).items():
        name, *overrides, _, _ = key.split()
        config = importlib.import_module(f"configs.{name}").get_config()
        changes = dict(part.removeprefix("--config.").split("=", 1) for part in overrides)
        programs.append((key, aot_compile.with_settings(config, {k: type(value(config, k))(v) for k, v in changes.items()}), entry))
    return programs


def compiled_entry(config, part, chip, count):
    """The entry of results/aot.json for the same program on the same chips, or None."""
    if part.program not in DEPENDS or chip not in chips.CHIPS:
        return None
    for key, compiled_config, entry in compiled():
        matches = entry["fits"] and key.split()[-1] == part.program
        matches = matches and (entry["chip"], entry["devices"]) == (chips.CHIPS[chip].name, count)
        if matches and all(value(compiled_config, config_key) == value(config, config_key) for config_key in DEPENDS[part.program]):
            if math.isclose(entry["flops"]["model"] * count, part.flops, rel_tol=1e-3):  # the mask source has one token more
                return entry
    return None


def cost(config, part, slice_name, utilisation):
    """{"hours", "what"} of a part on a slice; for a compiled program also its device memory, {"gib", "of_gib"}."""
    chip, count = slice_of(slice_name)
    if entry := compiled_entry(config, part, chip, count):
        seconds = part.runs * entry["seconds_at_least"]["exchange_hidden"]
        memory = {"gib": entry["memory"]["peak"] / 2**30, "of_gib": entry["hbm"]}
        return {"hours": seconds / 3600, "what": BOUND, **memory}
    return {"hours": part.runs * part.flops / (PEAKS[chip] * count * utilisation) / 3600, "what": ESTIMATE}


def trained(config, text_vocab):
    """{name: (parameters, updates)} of every network that a run trains or loads, and keeps."""
    from tsdfm_jax.config import networks, settings
    from tsdfm_jax.models import causal, energy, transformer

    vocab, length = settings.path(config, text_vocab).vocab, config.data.length
    flow = lambda step_conditioned: parameters(
        transformer.init, settings.network(config, vocab, step_conditioned=step_conditioned), length
    )
    trained_networks = {"teacher": (flow(False), 0 if config.teacher.path else config.teacher.optimiser.steps)}
    trained_networks = trained_networks if networks.needs(config, "teacher") else {}
    for name in budget_parts.judge_names(config):
        trained_networks[f"judge {name}"] = (
            parameters(causal.init, settings.judge(config, name, text_vocab)),
            config.judges.optimiser.steps,
        )
    if networks.needs(config, "autoregressive"):
        causal_like = parameters(causal.init, settings.autoregressive(config, text_vocab))
        trained_networks["autoregressive"] = causal_like, config.autoregressive.optimiser.steps
    if config.compass.kind != "lookahead" and networks.needs(config, "compass"):
        light = parameters(energy.init, settings.compass_network(config, vocab), length)
        trained_networks["compass"] = (light, config.compass.optimiser.steps)
    students = {f"student {v}, round {r}": flow(True) for v in networks.variants(config) for r in range(config.rounds)}
    return trained_networks | {name: (count, config.student.optimiser.steps) for name, count in students.items()}


@functools.cache
def parameters(init, cfg, *length):
    """Number of parameters of `init(key, cfg, *length)`, without allocating them."""
    import jax

    from tsdfm_jax.models import transformer

    return transformer.parameters(jax.eval_shape(lambda: init(jax.random.key(0), cfg, *length)))


def corpus_tokens(config, tokens=0):
    """Tokens of the corpus: `tokens` if given, else by data.limit_bytes, else those of sample-10BT."""
    return tokens or (int(config.data.limit_bytes / TOKEN_TEXT) if config.data.limit_bytes else SAMPLE_10BT)


def shards_bytes(records, per_shard, size):
    """Bytes of the ArrayRecord files of `records` records of `size` bytes."""
    whole, rest = divmod(records, per_shard)
    file_bytes = lambda count: BLOCK * (-(-count * (size + MARGIN) // BLOCK) + 1) if count else 0
    return whole * file_bytes(per_shard) + file_bytes(rest)


def trajectory_bytes(config, text_vocab, variant):
    """Bytes of one set of trajectories, all rounds and kinds of record."""
    from tsdfm_jax.config import settings
    from tsdfm_jax.distillation import generation, trajectory_records

    c, path, candidates = (
        config.trajectories,
        settings.path(config, text_vocab),
        generation.shaping_config(config, variant).candidates,
    )
    records = -(-c.count // c.shard) * c.shard
    size = lambda kind: trajectory_records.schema(config, path, kind, candidates).dtype.itemsize + CHECKSUM
    return config.rounds * sum(shards_bytes(records, c.shard, size(kind)) for kind in model_flops.kinds(config))


def disk(config, text_vocab, tokens=0):
    """{what: bytes} on disk after a run, to a few percent; while a checkpoint is written, that network has one more.

    Checkpoints count uncompressed: Orbax compresses them, which helps where weights or moments are still zero, and adds files
    of its own, which matter only for networks of a few thousand parameters.
    """
    from tsdfm_jax.config import networks
    from tsdfm_jax.evaluation import text_sets

    windows, size = corpus_tokens(config, tokens) // config.data.length, config.data.length * (2 if text_vocab <= 65535 else 4)
    heldout = round(windows * config.data.holdout)
    sizes = {"corpus": sum(shards_bytes(n, config.data.windows_per_shard, size) for n in (heldout, windows - heldout))}
    for variant in networks.variants(config):
        sizes[f"{variant} trajectories"] = trajectory_bytes(config, text_vocab, variant)
    checkpoint_bytes = lambda updates: min(KEPT_CHECKPOINTS, -(-updates // config.save_every)) * (STATE + USED) + MODEL
    for name, (count, updates) in trained(config, text_vocab).items():
        group = "students" if name.startswith("student") else "judges" if name.startswith("judge") else name
        sizes[group] = sizes.get(group, 0) + count * checkpoint_bytes(updates)
    text = config.data.length * (TOKEN_TEXT + len(str(text_vocab)) + 2)  # and the tokens' numbers in JSON
    return sizes | {"samples": int(len(text_sets.wanted(config)) * config.evaluate.samples * (text + METADATA_BYTES))}


def tokens_read(config):
    """{network: tokens of the corpus that its training reads}."""
    from tsdfm_jax.config import networks

    section_tokens = lambda section: section.optimiser.steps * section.batch * config.data.length
    all_tokens = {"the teacher": section_tokens(config.teacher), "each judge": section_tokens(config.judges)}
    all_tokens["the autoregressive model"] = section_tokens(config.autoregressive)
    needed = {"the teacher": networks.needs(config, "teacher") and not config.teacher.path}
    needed["the autoregressive model"] = networks.needs(config, "autoregressive")
    return {network: tokens for network, tokens in all_tokens.items() if needed.get(network, True)}


def budget(config, text_vocab, slices, utilisation, tokens=0):
    """The whole budget as plain JSON: each stage's parts with their cost on each slice, state, disk, tokens read. ValueError."""
    from tsdfm_jax.config import networks

    stages = {}
    for stage, parts_of in budget_parts.STAGES.items():
        if not networks.needs(config, stage):
            continue
        stages[stage] = [
            {"part": part.name, "runs": part.runs, "flops": part.runs * part.flops}
            | {"on": {slice_name: cost(config, part, slice_name, utilisation) for slice_name in slices}}
            for part in parts_of(config, text_vocab)
        ]
    parts = [part for rows in stages.values() for part in rows]
    total = {slice_name: sum(part["on"][slice_name]["hours"] for part in parts) for slice_name in slices}
    params = {name: count for name, (count, _) in trained(config, text_vocab).items()}
    about = {"stages": stages, "hours": total, "utilisation": utilisation, "parameters": params}
    about |= {"state_bytes": {slice_name: state_bytes(config, max(params.values()), slice_name) for slice_name in slices}}
    return about | {"disk": disk(config, text_vocab, tokens), "tokens": corpus_tokens(config, tokens), "read": tokens_read(config)}


def state_bytes(config, params, slice_name):
    """Bytes of weights, moments and average of a network of `params` parameters on one device of a slice."""
    _, count = slice_of(slice_name)
    mesh = config.mesh.to_dict()
    known_devices = math.prod(n for n in mesh.values() if n != -1)
    mesh = {axis: count // known_devices if n == -1 else n for axis, n in mesh.items()}
    return params * STATE // (mesh["fsdp"] * mesh["tensor"])


def quantity(size, unit="B"):
    """A number of bytes or tokens with three digits, such as 18.4 GB."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {prefix}{unit}"
    return f"{size:.0f} {unit}"


def peaks(result):
    """Device memory of the largest compiled program on each slice, as text; "" where none was compiled."""
    lines = []
    for slice_name in result["hours"]:
        costs = [part["on"][slice_name] for parts in result["stages"].values() for part in parts]
        if sizes := [(entry["gib"], entry["of_gib"]) for entry in costs if "gib" in entry]:
            lines.append(f"{max(sizes)[0]:.2f} of {max(sizes)[1]} GiB on {slice_name}")
    return f"; for the largest compiled program {', '.join(lines)}" if lines else ""


def table(result):
    """The result of `budget` as Markdown: hours, memory, disk."""
    slices, mark = list(result["hours"]), {BOUND: "b", ESTIMATE: "e"}
    hours = lambda value: f"{value:,.1f}" if value >= 0.1 else f"{value:.3f}"
    lines = [
        f"| stage | part | runs | PFLOP |{''.join(f' hours on {slice_name} |' for slice_name in slices)}",
        "|---" * (4 + len(slices)) + "|",
    ]
    for stage, parts in result["stages"].items():
        for part in parts:
            cells = [stage, part["part"], f"{part['runs']:,}", f"{part['flops'] / 1e15:,.0f}"]
            cells += [f"{hours(entry['hours'])} {mark[entry['what']]}" for entry in part["on"].values()]
            lines.append(f"| {' | '.join(cells)} |")
    cells = ["all", "", "", f"{sum(p['flops'] for parts in result['stages'].values() for p in parts) / 1e15:,.0f}"]
    lines += [f"| {' | '.join([*cells, *map(hours, result['hours'].values())])} |", ""]
    lines.append(f"b: {BOUND}, no run can be faster; e: {ESTIMATE}, at {result['utilisation']:.0%} of the chips' peak.")
    state = ", ".join(f"{size / 2**30:.2f} GiB on {slice_name}" for slice_name, size in result["state_bytes"].items())
    lines.append(f"Memory of a device for weights, moments and average of the largest network: {state}{peaks(result)}.")
    lines.append(
        f"Disk: {', '.join(f'{what} {quantity(size)}' for what, size in result['disk'].items())}; in all {quantity(sum(result['disk'].values()))}."
    )
    passes = ", ".join(
        f"{network} {quantity(n, 'tokens')} ({n / result['tokens']:.3g} times all of it)" for network, n in result["read"].items()
    )
    lines.append(f"Of a corpus of {quantity(result['tokens'], 'tokens')}, training reads: {passes}.")
    return "\n".join(lines)


def define():
    """Define the flags; not on import, because another command may define the same names."""
    config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/fineweb_170m.py.")
    flags.DEFINE_list(
        "slice", ["v5e-16"], f"Slices, comma-separated: a chip of {', '.join(PEAKS)} and a count; v5p-32 is 16 chips."
    )
    flags.DEFINE_float(
        "utilisation", 0.3, "Share of the chips' peak behind the FLOP estimates.", lower_bound=0.001, upper_bound=1.0
    )
    flags.DEFINE_integer("vocab_size", 0, "Vocabulary size of the tokenizer; 0: tokenizer.vocab_size.", lower_bound=0)
    flags.DEFINE_alias("symbols", "vocab_size")  # its name until 0.1.0
    flags.DEFINE_integer("tokens", 0, "Tokens of the corpus; 0: by data.limit_bytes, or FineWeb-Edu's sample-10BT.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print the whole budget as JSON.")


def main(argv):
    given = flags.FLAGS
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed
    try:
        command_line.config_file(argv, "configs/fineweb_170m.py")
        for slice_name in given.slice:
            slice_of(slice_name)
        from tsdfm_jax.config import methods, validation

        one_device = {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": -1}
        methods.require(given.config, "tsdfm", "launch.budget")
        validation.validate(aot_compile.with_settings(given.config, one_device))
        text_vocab = given.vocab_size or given.config.tokenizer.vocab_size
        result = budget(given.config, text_vocab, given.slice, given.utilisation, given.tokens)
    except (ValueError, FileNotFoundError) as error:
        return fail(error)
    print(atomic.json_text(result, indent=1) if given.json else table(result))

"""Time every program of a config against the bare passes of its networks, side by side, on the devices of this machine.

    python -m launch.benchmark --json=results/benchmark.json
    python -m launch.benchmark --config=configs/fineweb_170m.py --only=trajectories,sampler
    python -m launch.benchmark --config=configs/ntm_base.py --batch=64

A shaped trajectory should cost its generator's and its compass's forward passes, an update one forward and one backward pass,
a text one forward pass a step. NTM's update should cost a forward and a backward pass of its predictor and of its flow blocks and
one of the frozen flow matching, an image one pass of the predictor a step and one of each flow block, patch by patch. Any further time is overhead: `over bare` is a program's time divided by the time of these
passes, each compiled alone, all run in turn, round by round. Without --config it times the 170M config and the quickstart.
On a CPU the 170M config runs on short windows in float32 (CPU, below); --batch, --length and --dtype override this. Weights
and data are random: no time depends on them.

Every program is compiled anew, and once more as in a second start, from JAX's cache in a temporary directory.
"""

import datetime
import functools
import importlib
import os
import platform
import shlex
import sys
import tempfile

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import aot_compile
from tsdfm_jax.runtime import memory

parse, fail = functools.partial(command_line.parse, "benchmark"), functools.partial(command_line.fail, "benchmark")
GROUPS = {
    "tsdfm": ("teacher", "compass", "trajectories", "student", "sampler", "draws", "losses", "reading", "stage", "start"),
    "ntm": ("flow_matching", "ntm", "images"),
}
SHAPES = ("configs/fineweb_170m.py", "configs/quickstart.py")
# One sequence of 1,024 tokens takes minutes on two cores. The matrices and V keep their full size.
CPU = {"configs/fineweb_170m.py": {"batch": 2, "length": 128, "dtype": "float32"}}
BATCH = 16  # rows, if neither a flag nor CPU sets them


def asked(file, platform_name):
    """The sizes to time a config with on a platform, {batch, length, dtype, longest}: the flags', else those of CPU on a CPU.

    A length of 0 and a dtype of "" are the config's own.
    """
    sizes = {"batch": BATCH, "length": 0, "dtype": ""} | (CPU.get(file, {}) if platform_name == "cpu" else {})
    given = {name: getattr(flags.FLAGS, name) or value for name, value in sizes.items()}
    return given | {"longest": flags.FLAGS.longest}


def machine():
    """Describe the devices and the JAX version of this machine."""
    import jax

    device = jax.devices()[0]
    about = {"device": device.device_kind, "platform": device.platform, "devices": jax.device_count(), "jax": jax.__version__}
    if device.platform == "cpu":
        about |= {"device": _cpu() or device.device_kind, "cores": os.cpu_count()}
    return about


def _cpu():
    """The CPU's model name, where the system states it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def measure(file, config, group_names, say):
    """Time the wanted groups of a config, and call `say(group, rows)` after each; returns the entry with all groups."""
    import jax

    from tsdfm_jax.config import methods
    from tsdfm_jax.experiments.benchmark import clock as benchmark_clock

    about, parts = machine(), methods.of(config).load("benchmark")
    shape, sizes = parts.prepared(config, asked(file, about["platform"]))
    entry = about | {"sizes": sizes, "rounds": flags.FLAGS.rounds, "groups": {}}
    for name in group_names:
        entry["groups"][name] = benchmark_clock.timed(parts.GROUPS[name](shape), flags.FLAGS.rounds)
        say(name, entry["groups"][name])
        jax.clear_caches()
    return entry


def entry_name(name, entry):
    """Key of an entry in the JSON file: config, sizes, and the number and kind of devices."""
    sizes = entry["sizes"]
    return f"{name} B={sizes['batch']} L={sizes['length']} {sizes['dtype']}, {entry['devices']} x {entry['device']}"


def show(title, rows):
    """Print one group on the terminal."""
    import rich.console
    import rich.table

    table = rich.table.Table(title=title, title_justify="left")
    for column in (
        "",
        "ms",
        "min to max",
        "tokens/s",
        "over bare",
        "min to max",
        "GFLOP",
        "by XLA",
        "temp MiB",
        "compile s",
        "again s",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in rows.items():
        table.add_row(name, *cells(row))
    rich.console.Console(highlight=False, width=200, soft_wrap=True).print(table)


def cells(row):
    """A row's metrics as text, in the order of the table's columns."""
    bare = row.get("over_bare")
    yield f"{1e3 * row['seconds']['median']:,.1f}"
    yield " to ".join(f"{1e3 * row['seconds'][end]:,.1f}" for end in ("min", "max"))
    yield f"{row['symbols'] / row['seconds']['median']:,.0f}" if row["symbols"] else ""
    yield f"{bare['median']:.3f}" if bare else ""
    yield f"{bare['min']:.3f} to {bare['max']:.3f}" if bare else ""
    for key, unit, digits in (("flops", 1e9, 1), ("xla_flops", 1e9, 1), ("temp_bytes", 2**20, 0), ("compile_seconds", 1, 1)):
        yield f"{row[key] / unit:,.{digits}f}" if row.get(key) else ""
    yield f"{row['again_seconds']:.1f}" if "again_seconds" in row else ""


def configs_to_time(argv):
    """[(file, config)] to time. Raises ValueError, in one line."""
    if flags.FLAGS.config is not None:
        return [(command_line.config_file(argv, SHAPES[0]), flags.FLAGS.config)]
    command_line.only_flags(argv)
    return [(file, importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config()) for file in SHAPES]


def _groups():
    return "; ".join(f"of {method} {', '.join(names)}" for method, names in GROUPS.items())


def groups(config, wanted):
    """The groups of a config to time, all where none is wanted. Raises ValueError, one line, for one that its method lacks."""
    from tsdfm_jax.config import methods

    names = GROUPS[methods.of(config).name]
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"--only={unknown[0]} is not one of {', '.join(names)}")
    return wanted or names


def define():
    """Define the flags; not on import, because another command may define the same names."""
    config_flags.DEFINE_config_file("config", None, "A config to time instead of the two defaults.")
    flags.DEFINE_list("only", [], f"Groups to time, comma-separated: {_groups()}. All by default.")
    flags.DEFINE_integer("batch", 0, f"Rows of every program; 0: {BATCH}, or 2 for the 170M config on a CPU.", lower_bound=0)
    flags.DEFINE_integer("length", 0, "Tokens of a window; 0: the config's, or 128 for the 170M config on a CPU.", lower_bound=0)
    flags.DEFINE_string("dtype", "", "Compute type; by default the config's, or float32 for the 170M config on a CPU.")
    flags.DEFINE_integer("rounds", 7, "Number of rounds; each round runs all programs of a group in turn.", lower_bound=1)
    flags.DEFINE_float("longest", 60.0, "Longest run of the sampler, seconds; longer runs do only their first steps.", 0.1)
    flags.DEFINE_string("json", "", "A file to add the results to, by config, sizes and device.")


def main(argv):
    try:
        shapes = configs_to_time(argv)
        timed = [(file, config, groups(config, flags.FLAGS.only)) for file, config in shapes]
        command = shlex.join(["python", "-m", "launch.benchmark", *sys.argv[1:]])
        memory.keep()  # as a run does
        with tempfile.TemporaryDirectory() as cache:
            os.environ.update(JAX_COMPILATION_CACHE_DIR=cache, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
            for file, config, names in timed:
                name, about = command_line.run_name(file), {"command": command, "date": datetime.date.today().isoformat()}
                entry = measure(file, config, names, lambda group, rows: show(f"{name}: {group}", rows))
                if flags.FLAGS.json:
                    aot_compile.write_entry(flags.FLAGS.json, entry_name(name, entry), about | entry)
    except (ValueError, FileNotFoundError) as error:
        return fail(error)

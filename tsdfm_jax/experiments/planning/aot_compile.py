"""Compile the steps of a config for a TPU slice, on any machine: the memory they need and the utilisation they can reach.

    python -m launch.aot_compile --config=configs/fineweb_170m.py --topology=v5e:4x4

It needs the extra `tpu` (pip install -e '.[tpu]') and no TPU: libtpu's compiler runs anywhere, for minutes a program. The programs
of the config's method are compiled as the stages run them: of TS-DFM the teacher's update, a batch of shaped trajectories and the
student's update; of NTM the updates of flow matching and of the trajectory model, and a batch of images. The output gives, for one device, the memory they need and the chip's memory, their FLOPs, their exchanges with other devices, and the
least time of one run, with the model FLOP utilisation that it implies. Nothing is run: the times are lower bounds.
Where a program does not fit, the settings of `remedies` are tried in order until one fits, and printed as flags.

A method's programs stand in a module of their own (`programs` in config/methods.py). It has PROGRAMS, their names; `data`, what a
config does not say of its data, from this command's flags; `check` of batches, `batch` and `length` of a program, `programs`
themselves, their model FLOPs (`flops`) and `remedies`. Where a method makes a program in several kinds, it is named PROGRAM/KIND.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import chips
from tsdfm_jax.storage import atomic, places

parse, fail = functools.partial(command_line.parse, "aot_compile"), functools.partial(command_line.fail, "aot_compile")


def planned(config):
    """The module of the programs of a config's method."""
    from tsdfm_jax.config import methods

    return methods.of(config).load("programs")


def mesh_of(config, devices):
    """The config's mesh over the devices of a slice. Raises ValueError for an invalid config."""
    from tsdfm_jax.config import settings, validation
    from tsdfm_jax.runtime import mesh as meshes

    # The check must not depend on this machine's devices.
    one_device = with_settings(config, {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": -1, "model.attention": "auto"})
    validation.validate(one_device)
    mesh = meshes.make_mesh(settings.fill(meshes.MeshConfig, config.mesh), devices)
    planned(config).check(config, mesh)
    return mesh


def with_settings(config, changes):
    """A copy of a config with some keys changed, {"model.remat": "full"}."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(changes)
    return copy


def first_that_fits(candidates, attempt):
    """(changes, outcome) of the first changes whose `attempt(changes) -> chips.Outcome` fits, else of those that need least."""
    least = None
    for changes in candidates:
        outcome = attempt(changes)
        if outcome.fits:
            return changes, outcome
        if least is None or outcome.used < least[1].used:
            least = changes, outcome
    return least


def as_flags(changes):
    """Settings as command line flags."""
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def examine(config, data, devices, chip, name):
    """The `chips.Outcome` of one program of a config on a slice."""
    import jax

    mesh, method = mesh_of(config, devices), planned(config)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # attention is chosen by the current mesh's devices
        lower = method.programs(config, data, mesh)[name]
        outcome = chips.examine(lower, chip, method.flops(config, data, name) / len(devices))
    about = {"devices": len(devices), "mesh": dict(mesh.shape), "batch": method.batch(config, name)}
    return outcome._replace(record=about | outcome.record) if outcome.record else outcome


def run(config, topology_name, data, wanted, search, say):
    """Compile the wanted programs for a slice, and call `say(program, outcome, changes)` for each, first with changes {}.

    Where a program does not fit and `search` is set, call it again with the settings that made it fit, or came nearest.
    """
    devices, chip = chips.topology(topology_name)
    import jax  # late: a mistyped flag should not wait for it

    from tsdfm_jax.models import attention
    from tsdfm_jax.runtime import mesh as meshes

    mesh, method = mesh_of(config, devices), planned(config)
    attention.check_devices(config.model.attention, devices[0].platform, method.length(config, data))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        names = list(method.programs(config, data, mesh, wanted))
    for program in names:
        outcome = examine(config, data, devices, chip, program)
        say(program, outcome, {})
        if search and not outcome.fits:
            attempt = lambda changes: examine(with_settings(config, changes), data, devices, chip, program)
            ways = method.remedies(config, program, meshes.batch_devices(mesh))
            changes, outcome = first_that_fits(ways, attempt) or ({}, outcome)
            say(program, outcome, changes)


def write_entry(file, key, entry):
    """Add an entry to a JSON file of entries, or replace the entry of the same key."""
    file = places.expanded(file)
    entries = json.loads(file.read_text()) if file.exists() else {}
    entries[key] = entry
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(atomic.json_text(entries, indent=1, sort_keys=True) + "\n")
    part.replace(file)


def entry(outcome, changes):
    """The JSON entry of an outcome: command, versions, date, and the program's record if it fits."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    about = {"command": shlex.join(["python", "-m", "launch.aot_compile", *sys.argv[1:]]), "versions": versions}
    about |= {"date": datetime.date.today().isoformat(), "fits": outcome.fits and not changes}
    if not outcome.fits:
        return about if changes else about | {"needs_gib": outcome.used, "available_gib": outcome.available}
    return about | ({"fits_with": as_flags(changes)} if changes else {}) | outcome.record


def define():
    """Define the flags; not on import, because another command may define the same names."""
    config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/fineweb_170m.py.")
    flags.DEFINE_string("topology", "v5e:4x4", "The slice: v5e:4x4 is 16 v5e chips, v5p:2x2x4 is a v5p-32.")
    flags.DEFINE_integer("vocab_size", 0, "Vocabulary size of the tokenizer; 0: tokenizer.vocab_size.", lower_bound=0)
    flags.DEFINE_alias("symbols", "vocab_size")  # its name until 0.1.0
    flags.DEFINE_string("image", "16x16x32", "Height, width and channels of the images or latents in images.files (NTM).")
    flags.DEFINE_integer("classes", 1000, "Classes of the images in images.files (NTM).", lower_bound=1)
    flags.DEFINE_list(
        "program",
        [],
        "Programs to compile, comma-separated: teacher, trajectories, student; of NTM flow_matching, ntm, sampler. All by default.",
    )
    flags.DEFINE_string("json", "", "A file to add the results to, by config, topology and program.")
    flags.DEFINE_bool("search", True, "If a program does not fit, search for settings that make it fit.")


def main(argv):
    given = flags.FLAGS
    try:
        file = command_line.config_file(argv, "configs/fineweb_170m.py")
    except ValueError as error:
        return fail(error)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    overrides = as_flags(config_flags.get_override_values(given["config"]))
    entries, key = {}, lambda program: " ".join(filter(None, [command_line.run_name(file), overrides, given.topology, program]))

    def say(program, outcome, changes):
        show(key(program), outcome, changes)
        entries[program] = entries.get(program, {}) | entry(outcome, changes)
        if given.json:
            write_entry(given.json, key(program), entries[program])

    try:
        method = planned(given.config)
        if unknown := [name for name in given.program if name not in method.PROGRAMS]:
            raise ValueError(f"--program={unknown[0]} is not one of {', '.join(method.PROGRAMS)}")
        data = method.data(given.config, given.vocab_size, given.image.split("x"), given.classes)
        run(given.config, given.topology, data, given.program or method.PROGRAMS, given.search, say)
    except (ValueError, FileNotFoundError) as error:
        return fail(error)
    return 0 if all(result["fits"] for result in entries.values()) else 1


def show(title, outcome, changes):
    """Print one program's outcome on the terminal."""
    import rich.console
    import rich.table

    console = rich.console.Console(highlight=False, soft_wrap=True)
    if not outcome.fits:
        what = f"does not fit even with {as_flags(changes)}" if changes else "does not fit"
        return console.print(f"{title}: {what}, it needs {outcome.used:.2f} GiB of {outcome.available:.2f}")
    table = rich.table.Table("of one device", "", title=title, title_justify="left")
    for what, value in ([("fits with", as_flags(changes))] if changes else []) + list(chips.described(outcome.record)):
        table.add_row(what, value)
    console.print(table)

"""Compile the steps of a config for a TPU slice, on any machine: the memory they need and the utilisation they can reach.

    python -m launch.aot_compile --config=configs/fineweb_170m.py --topology=v5e:4x4

It needs the extra `tpu` (pip install -e '.[tpu]') and no TPU: libtpu's compiler runs anywhere, for minutes a program. The
teacher's update, a batch of shaped trajectories and the student's update are compiled as the stages run them. The output
gives, for one device, the memory they need and the chip's memory, their FLOPs, their exchanges with other devices, and the
least time of one run, with the model FLOP utilisation that it implies. Nothing is run: the times are lower bounds.
Where a program does not fit, the settings of `remedies` are tried in order until one fits, and printed as flags.
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
from tsdfm_jax.experiments.planning import chips, model_flops
from tsdfm_jax.storage import atomic, places

parse, fail = functools.partial(command_line.parse, "aot_compile"), functools.partial(command_line.fail, "aot_compile")
PROGRAMS = ("teacher", "trajectories", "student")


def mesh_of(config, devices):
    """The config's mesh over the devices of a slice. Raises ValueError for an invalid config."""
    from tsdfm_jax.config import methods, settings, tsdfm_validation, validation
    from tsdfm_jax.runtime import mesh as meshes

    methods.require(config, "tsdfm", "launch.aot_compile")
    # The check must not depend on this machine's devices.
    one_device = with_settings(config, {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": -1, "model.attention": "auto"})
    validation.validate(one_device)
    mesh = meshes.make_mesh(settings.fill(meshes.MeshConfig, config.mesh), devices)
    tsdfm_validation.check_batches(config, mesh)
    return mesh


def with_settings(config, changes):
    """A copy of a config with some keys changed, {"model.remat": "full"}."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(changes)
    return copy


def programs(config, text_vocab, mesh, wanted=PROGRAMS):
    """{name: () -> jax.stages.Lowered}; one `trajectories/<kind>` for each kind of record, plain `trajectories` for one kind."""
    import jax
    import jax.numpy as jnp

    from tsdfm_jax.config import settings
    from tsdfm_jax.distillation import generation, student_training, teacher_training, trajectory_records
    from tsdfm_jax.models import energy
    from tsdfm_jax.runtime import mesh as meshes
    from tsdfm_jax.workspace import trained

    split, length, path = meshes.batch_sharding(mesh), config.data.length, settings.path(config, text_vocab)
    rows = lambda batch, shape, kind: jax.ShapeDtypeStruct((batch, *shape), jnp.dtype(kind), sharding=split)
    network = trained.network(config, text_vocab, mesh, step_conditioned=False)

    def generate(kind):
        weights, cfg = None, config.compass.kind != "lookahead" and settings.compass_network(config, path.vocab)
        if cfg:
            weights = meshes.abstract(mesh, lambda: energy.init(jax.random.key(0), cfg, length))
        jitted = generation.program(config, text_vocab, mesh, kind, "shaped", network.apply)
        first, data = jax.ShapeDtypeStruct((), jnp.int32), rows(config.trajectories.batch, (length,), jnp.int32)
        return jitted.lower({"generator": network.params, "compass": weights}, first, data)

    def learn():
        batch = {}
        for kind in model_flops.kinds(config):
            schema = trajectory_records.schema(config, path, kind, config.shaping.candidates)
            batch[kind] = {
                name: rows(config.student.batch, *schema.fields[name][::-1]) for name in student_training.learned_fields(schema)
            }
        if config.student.target == "mixed":
            batch["data"] = rows(config.student.batch, (length,), jnp.int32)
        return student_training.learner(config, text_vocab, mesh, network, network.params).lower(batch)

    lowerings = {
        "teacher": lambda: teacher_training.learner(config, text_vocab, mesh).lower(
            rows(config.teacher.batch, (length,), jnp.int32)
        )
    }
    for kind in model_flops.kinds(config):
        lowerings["trajectories" if len(model_flops.kinds(config)) == 1 else f"trajectories/{kind}"] = functools.partial(
            generate, kind
        )
    lowerings["student"] = learn
    return {name: lower for name, lower in lowerings.items() if name.split("/")[0] in wanted}


def remedies(config, program, devices):
    """Settings to try where a program does not fit, in order: {key: value} of the config.

    First those that cost no FLOPs: more microbatches, or fewer candidates scored at once and then a smaller batch. Then
    rematerialised activations; weights, moments and average sharded over all devices; and all of them together.
    """
    doubled = [2**n for n in range(1, 12)]
    if program.startswith("trajectories"):
        k, batch = config.shaping.chunk or config.shaping.candidates, config.trajectories.batch
        free_changes = [{"shaping.chunk": k // n} for n in doubled if k // n >= 1]
        smallest_chunk = free_changes[-1] if free_changes else {}
        free_changes += [smallest_chunk | {"trajectories.batch": batch // n} for n in doubled if batch % (n * devices) == 0]
    else:
        section, key = config[program], f"{program}.optimiser.accumulate"
        counts = [section.optimiser.accumulate * n for n in doubled]
        free_changes = [{key: n} for n in counts if section.batch % (n * devices) == 0]
    costly_changes = [{"model.remat": "full"}] if config.model.remat != "full" and not program.startswith("trajectories") else []
    if config.mesh.fsdp == 1:
        costly_changes.append({"mesh.data": 1, "mesh.fsdp": -1})
    together = functools.reduce(lambda a, b: a | b, [*costly_changes, free_changes[-1] if free_changes else {}], {})
    candidates = [*free_changes, *costly_changes, together]
    return [changes for i, changes in enumerate(candidates) if changes and changes not in candidates[:i]]


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


def examine(config, text_vocab, devices, chip, name):
    """The `chips.Outcome` of one program of a config on a slice."""
    import jax

    mesh = mesh_of(config, devices)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # attention is chosen by the current mesh's devices
        outcome = chips.examine(
            programs(config, text_vocab, mesh)[name], chip, model_flops.program(config, text_vocab, name) / len(devices)
        )
    about = {"devices": len(devices), "mesh": dict(mesh.shape), "batch": config[name.split("/")[0]].batch}
    return outcome._replace(record=about | outcome.record) if outcome.record else outcome


def run(config, topology_name, text_vocab, wanted, search, say):
    """Compile the wanted programs for a slice, and call `say(program, outcome, changes)` for each, first with changes {}.

    Where a program does not fit and `search` is set, call it again with the settings that made it fit, or came nearest.
    """
    devices, chip = chips.topology(topology_name)
    import jax  # late: a mistyped flag should not wait for it

    from tsdfm_jax.models import attention
    from tsdfm_jax.runtime import mesh as meshes

    mesh = mesh_of(config, devices)
    attention.check_devices(config.model.attention, devices[0].platform, config.data.length)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        names = list(programs(config, text_vocab, mesh, wanted))
    for program in names:
        outcome = examine(config, text_vocab, devices, chip, program)
        say(program, outcome, {})
        if search and not outcome.fits:
            attempt = lambda changes: examine(with_settings(config, changes), text_vocab, devices, chip, program)
            changes, outcome = first_that_fits(remedies(config, program, meshes.batch_devices(mesh)), attempt) or ({}, outcome)
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
    flags.DEFINE_list("program", list(PROGRAMS), f"Programs to compile, comma-separated: {', '.join(PROGRAMS)}.")
    flags.DEFINE_string("json", "", "A file to add the results to, by config, topology and program.")
    flags.DEFINE_bool("search", True, "If a program does not fit, search for settings that make it fit.")


def main(argv):
    given = flags.FLAGS
    try:
        file = command_line.config_file(argv, "configs/fineweb_170m.py")
    except ValueError as error:
        return fail(error)
    if unknown := [name for name in given.program if name not in PROGRAMS]:
        return fail(f"--program={unknown[0]} is not one of {', '.join(PROGRAMS)}")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    overrides = as_flags(config_flags.get_override_values(given["config"]))
    entries, key = {}, lambda program: " ".join(filter(None, [command_line.run_name(file), overrides, given.topology, program]))

    def say(program, outcome, changes):
        show(key(program), outcome, changes)
        entries[program] = entries.get(program, {}) | entry(outcome, changes)
        if given.json:
            write_entry(given.json, key(program), entries[program])

    try:
        run(given.config, given.topology, given.vocab_size or given.config.tokenizer.vocab_size, given.program, given.search, say)
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

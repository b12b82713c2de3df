"""Compiles the steps of a config for a TPU slice, on any machine: what they need, and what they can reach at most.

    python -m launch.aot_compile --config=configs/fineweb_170m.py --topology=v5e:4x4

It needs the extra `tpu` (pip install -e '.[tpu]') and no TPU: libtpu's compiler runs anywhere, for minutes a program. The
teacher's update, a batch of shaped trajectories and the student's update are compiled as the stages run them. For one
device it is said what memory they need against what the chip has, their FLOPs, what they exchange with other devices, and
the least time that one run can take, with the model FLOP utilisation that it implies. Nothing is run: the times are bounds.
Where a program does not fit, the settings of `remedies` are tried in order until one does, and printed as flags.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import chips, model_flops

parse, fail = functools.partial(command_line.parse, "aot_compile"), functools.partial(command_line.fail, "aot_compile")
PROGRAMS = ("teacher", "trajectories", "student")


def mesh_of(config, devices):
    """The config's mesh over the devices of a slice. Raises ValueError for whatever is off in the config."""
    from tsdfm_jax.config import settings, validation
    from tsdfm_jax.runtime import mesh as meshes

    # This machine's devices do not matter.
    here = with_settings(config, {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": -1, "model.attention": "auto"})
    validation.validate(here)
    mesh = meshes.make_mesh(settings.fill(meshes.MeshConfig, config.mesh), devices)
    validation.check_batches(config, mesh)
    return mesh


def with_settings(config, changes):
    """A copy of a config with some keys changed, {"model.remat": "full"}."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(changes)
    return copy


def programs(config, text_vocab, mesh, wanted=PROGRAMS):
    """{name: () -> jax.stages.Lowered}; of `trajectories` one for each kind of record, named so where there are two."""
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

    found = {
        "teacher": lambda: teacher_training.learner(config, text_vocab, mesh).lower(
            rows(config.teacher.batch, (length,), jnp.int32)
        )
    }
    for kind in model_flops.kinds(config):
        found["trajectories" if len(model_flops.kinds(config)) == 1 else f"trajectories/{kind}"] = functools.partial(generate, kind)
    found["student"] = learn
    return {name: lower for name, lower in found.items() if name.split("/")[0] in wanted}


def remedies(config, program, devices):
    """What to try where a program does not fit, in order: {key: value} of the config.

    First what costs no arithmetic: more microbatches, or candidates scored fewer at once and then a smaller batch; then
    activations computed again; weights, moments and average shared out over all devices; and all of it together.
    """
    doubled = [2**n for n in range(1, 12)]
    if program.startswith("trajectories"):
        k, batch = config.shaping.chunk or config.shaping.candidates, config.trajectories.batch
        less = [{"shaping.chunk": k // n} for n in doubled if k // n >= 1]
        last = less[-1] if less else {}
        less += [last | {"trajectories.batch": batch // n} for n in doubled if batch % (n * devices) == 0]
    else:
        section, key = config[program], f"{program}.optimiser.accumulate"
        many = [section.optimiser.accumulate * n for n in doubled]
        less = [{key: n} for n in many if section.batch % (n * devices) == 0]
    more = [{"model.remat": "full"}] if config.model.remat != "full" and not program.startswith("trajectories") else []
    if config.mesh.fsdp == 1:
        more.append({"mesh.data": 1, "mesh.fsdp": -1})
    together = functools.reduce(lambda a, b: a | b, [*more, less[-1] if less else {}], {})
    ways = [*less, *more, together]
    return [way for i, way in enumerate(ways) if way and way not in ways[:i]]


def first_that_fits(ways, attempt):
    """(way, outcome) of the first way whose `attempt(way) -> chips.Outcome` fits, else of the one that needed least."""
    least = None
    for way in ways:
        outcome = attempt(way)
        if outcome.fits:
            return way, outcome
        if least is None or outcome.used < least[1].used:
            least = way, outcome
    return least


def as_flags(way):
    """Settings as the command line takes them."""
    return " ".join(f"--config.{key}={value}" for key, value in way.items())


def examine(config, text_vocab, devices, chip, name):
    """The `chips.Outcome` of one program of a config on a slice."""
    import jax

    mesh = mesh_of(config, devices)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # attention is chosen by the devices of the mesh at hand
        outcome = chips.examine(
            programs(config, text_vocab, mesh)[name], chip, model_flops.program(config, text_vocab, name) / len(devices)
        )
    about = {"devices": len(devices), "mesh": dict(mesh.shape), "batch": config[name.split("/")[0]].batch}
    return outcome._replace(found=about | outcome.found) if outcome.found else outcome


def run(config, where, text_vocab, wanted, search, say):
    """Compile what is wanted for the slice `where`, and `say(program, outcome, way)` of each: first as it is, way {}.

    Where that does not fit, a second time with the settings that made it fit, or that came nearest.
    """
    devices, chip = chips.topology(where)
    import jax  # late, as a mistyped flag should not wait for it

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
            attempt = lambda way: examine(with_settings(config, way), text_vocab, devices, chip, program)
            way, outcome = first_that_fits(remedies(config, program, meshes.batch_devices(mesh)), attempt) or ({}, outcome)
            say(program, outcome, way)


def note(file, key, entry):
    """Add an entry to a JSON file of entries, in place of one of the same key."""
    file = pathlib.Path(file)
    entries = json.loads(file.read_text()) if file.exists() else {}
    entries[key] = entry
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    part.replace(file)


def entry(outcome, way):
    """What is kept of an outcome: the command, the versions and the day, and the record of what fits."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    about = {"command": shlex.join(["python", "-m", "launch.aot_compile", *sys.argv[1:]]), "versions": versions}
    about |= {"date": datetime.date.today().isoformat(), "fits": outcome.fits and not way}
    if not outcome.fits:
        return about if way else about | {"needs_gib": outcome.used, "available_gib": outcome.available}
    return about | ({"fits_with": as_flags(way)} if way else {}) | outcome.found


def define():
    """The flags; not on import, as another command's of the same names may be there."""
    config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/fineweb_170m.py.")
    flags.DEFINE_string("topology", "v5e:4x4", "The slice: v5e:4x4 is 16 chips of v5e, v5p:2x2x4 what is called v5p-32.")
    flags.DEFINE_integer("vocab_size", 0, "Tokens of the tokenizer; 0 takes tokenizer.vocab_size.", lower_bound=0)
    flags.DEFINE_alias("symbols", "vocab_size")  # its name until 0.1.0
    flags.DEFINE_list("program", list(PROGRAMS), f"Which to compile, comma-separated: {', '.join(PROGRAMS)}.")
    flags.DEFINE_string("json", "", "A file to add the results to, by config, topology and program.")
    flags.DEFINE_bool("search", True, "Where a program does not fit, look for settings that make it; --nosearch only says so.")


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
    kept, key = {}, lambda program: " ".join(filter(None, [command_line.run_name(file), overrides, given.topology, program]))

    def say(program, outcome, way):
        show(key(program), outcome, way)
        kept[program] = kept.get(program, {}) | entry(outcome, way)
        if given.json:
            note(given.json, key(program), kept[program])

    try:
        run(given.config, given.topology, given.vocab_size or given.config.tokenizer.vocab_size, given.program, given.search, say)
    except (ValueError, FileNotFoundError) as error:
        return fail(error)
    return 0 if all(one["fits"] for one in kept.values()) else 1


def show(title, outcome, way):
    """One program on the terminal."""
    import rich.console
    import rich.table

    console = rich.console.Console(highlight=False, soft_wrap=True)
    if not outcome.fits:
        what = f"does not fit even with {as_flags(way)}" if way else "does not fit"
        return console.print(f"{title}: {what}, it needs {outcome.used:.2f} GiB of {outcome.available:.2f}")
    table = rich.table.Table("of one device", "", title=title, title_justify="left")
    for what, value in ([("fits with", as_flags(way))] if way else []) + list(chips.described(outcome.found)):
        table.add_row(what, value)
    console.print(table)

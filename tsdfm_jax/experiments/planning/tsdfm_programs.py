"""TS-DFM's programs, to be compiled ahead of time: the teacher's update, a batch of shaped trajectories, the student's update.

The interface of every method's such module is in aot_compile.
"""

import functools

from tsdfm_jax.experiments.planning import model_flops

PROGRAMS = ("teacher", "trajectories", "student")


def check(config, mesh):
    """Raise ValueError, one line, for batches that do not split over the devices."""
    from tsdfm_jax.config import tsdfm_validation

    tsdfm_validation.check_batches(config, mesh)


def data(config, vocab_size, image, classes):
    """Tokens of the text's vocabulary."""
    del image, classes
    return vocab_size or config.tokenizer.vocab_size


def length(config, text_vocab):
    """L, positions of attention."""
    del text_vocab
    return config.data.length


def batch(config, name):
    """Rows of a program."""
    return config[name.split("/")[0]].batch


def flops(config, text_vocab, name):
    """Model FLOPs of one run of a program, over all devices."""
    return model_flops.program(config, text_vocab, name)


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

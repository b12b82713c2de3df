"""Stage `student`: trains step-size-conditioned networks, one on the shaped and one on the blind trajectories."""

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import records, shards, windows
from tsdfm_jax.distillation import student_training
from tsdfm_jax.exchange import external
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import jobs, trained, tsdfm_artefacts


def run(config, workdir, round_number=0, remake=False):
    """Write `student/{shaped,blind}/round_r/model`: same budget and seeds, and in round 0 the same initial weights."""
    for variant in networks.variants(config):
        train(config, workdir, variant, round_number, remake)


def train(config, workdir, variant, round_number, remake=False):
    """Train one student from its own weights of the round before; in round 0 from `student.path` or else from the teacher."""
    with jobs.job(config, workdir, tsdfm_artefacts.student_directory(variant, round_number), remake) as job:
        if job.finished is not None:
            return
        tok, mesh = trained.tokenizer(config, workdir), settings.mesh(config)
        teacher = trained.teacher(config, workdir, mesh)
        initial_params, origin = teacher.params, {}
        if round_number > 0:
            initial_params = trained.student(config, workdir, mesh, variant, round_number - 1).params
        elif config.student.path:
            about, initial_params = external.read(config, "student", tok, mesh)
            origin = {"started_from": external.record(about)}
        by_generator = config.student.evaluator == "generator"
        frozen = trained.generator(config, workdir, mesh, variant, round_number) if by_generator else teacher
        learn = student_training.learner(config, tok.vocab_size, mesh, frozen, initial_params, round_number)
        data = batches(config, workdir, variant, round_number, mesh)
        options = dict(mesh=mesh, rows=jobs.text(config, tok), about=trained.about(config, tok, step_conditioned=True))
        _, figures = jobs.train(config, job, config.student, learn, data, name=f"student {variant}", **options)
        job.finish(figures | origin)


def batches(config, workdir, variant, round_number, mesh):
    """Batches of each kind of record that the target needs, and of data for `mixed`, as one resumable iterator."""
    root = jobs.require(config, workdir, tsdfm_artefacts.trajectories_directory(variant, round_number))
    batch_args = (config.student.batch, settings.student_seed(config) + round_number, meshes.share(mesh))
    stores = {kind: records.open_store(root / kind) for kind in settings.TARGETS[config.student.target]}
    parts = {
        kind: store.batches(*batch_args, fields=student_training.learned_fields(store.schema)) for kind, store in stores.items()
    }
    if config.student.target == "mixed":
        parts["data"] = windows.batches(jobs.require(config, workdir, "data"), "train", *batch_args)
    return shards.Joined(parts)

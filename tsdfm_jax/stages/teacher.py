"""Stage `teacher`: trains by discrete flow matching, with the generalised KL or cross-entropy, or loads a given teacher."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.distillation import teacher_training
from tsdfm_jax.evaluation import elbo
from tsdfm_jax.exchange import external
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import description, jobs, trained


def run(config, workdir, remake=False):
    """Write `teacher/model`, its curve (if trained) and its held-out ELBO."""
    with jobs.job(config, workdir, "teacher", remake) as job:
        if job.finished is not None:
            return
        data, tok, mesh = jobs.require(config, workdir, "data"), trained.tokenizer(config, workdir), settings.mesh(config)
        path, c = settings.path(config, tok.vocab_size), config.teacher
        apply = trained.network(config, tok.vocab_size, mesh, step_conditioned=False).apply
        measure = elbo.heldout(apply, path, mesh, windows.heldout(data, c.heldout), c.batch)
        bits = elbo.bits_per_byte(data)
        if c.path:
            params, figures = load_given(config, job, tok, mesh)
            return job.finish(figures | {"heldout_bits_per_byte": bits * measure(params)})
        batches = windows.batches(data, "train", c.batch, config.seed, meshes.share(mesh))
        last = {}  # the last evaluation during training, of the finished teacher; empty if an earlier run did all updates

        def evaluate(state):
            last["heldout_bits_per_byte"] = bits * measure(state.averaged)
            return dict(last)

        learn = teacher_training.learner(config, tok.vocab_size, mesh)
        about, rows = trained.about(config, tok, step_conditioned=False), jobs.text(config, tok)
        options = dict(mesh=mesh, rows=rows, about=about, evaluate=evaluate)
        state, figures = jobs.train(config, job, c, learn, batches, name="teacher", **options)
        job.finish(figures | (last or evaluate(state)))


def load_given(config, job, tok, mesh):
    """Copy the teacher of `teacher.path` to `model`, as if it had been trained here: (params, figures)."""
    about, params = external.read(config, "teacher", tok, mesh)
    job.metrics.line(f"taking {about}")
    own = {"tokenizer": tok.content_hash, description.KEY: trained.about(config, tok, step_conditioned=False)}
    meta = checkpoint.save_params(job.directory / "model", params, own)
    return params, {"taken": external.record(about), "parameters": transformer.parameters(params), "hash": meta["hash"]}

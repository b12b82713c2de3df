"""Stage `denoiser`: trains the network that replaces the transporter's inversion and score denoising by one pass."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import image_records
from tsdfm_jax.normalizing import denoiser_training, trained
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `denoiser/model` and its curve."""
    with jobs.job(config, workdir, "denoiser", remake) as job:
        if job.finished is not None:
            return
        mesh, store, c = settings.mesh(config), trained.source(config, workdir), config.denoiser
        shape = trained.shape(config, store)
        ntm = trained.network(config, workdir, mesh, "ntm")
        batches = image_records.batches(store, "train", c.batch, config.seed + denoiser_training.SEED, meshes.share(mesh))
        learner = denoiser_training.learner(config, shape, mesh, ntm.params)
        options = dict(name="denoiser", mesh=mesh, about=trained.description(config, shape, "denoiser"))
        _, figures = jobs.train(config, job, c, learner, batches, **options)
        job.finish(figures)

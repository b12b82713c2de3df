"""Stage `flow_matching`: trains the baseline, which is also the network that predictors start from."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import image_records
from tsdfm_jax.normalizing import heldout, trained, training
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `flow_matching/model`, its curve and its held-out loss."""
    with jobs.job(config, workdir, "flow_matching", remake) as job:
        if job.finished is not None:
            return
        mesh, store, c = settings.mesh(config), trained.source(config, workdir), config.flow_matching
        shape, rows, last = trained.shape(config, store), trained.heldout(config, store), {}

        def evaluate(state):
            last["heldout_loss"] = heldout.velocity_loss(config, shape, mesh, state.averaged, rows, c.batch)
            return dict(last)

        batches = image_records.batches(store, "train", c.batch, config.seed, meshes.share(mesh))
        learner, about = training.flow_matching_learner(config, shape, mesh), trained.description(config, shape, "flow_matching")
        options = dict(name="flow matching", mesh=mesh, about=about, evaluate=evaluate)
        state, figures = jobs.train(config, job, c, learner, batches, **options)
        job.finish(figures | (last or evaluate(state)))

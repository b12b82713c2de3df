"""Stage `ntm`: trains trajectory models by exact likelihood, with a transporter and, to compare, without one."""

from tsdfm_jax.config import ntm_networks, settings
from tsdfm_jax.data import image_records
from tsdfm_jax.normalizing import heldout, trained, training
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `ntm/model` and `ntm_identity/model`, as `models` says: same budget, same batches, same start."""
    for model in ntm_networks.normalizing(config):
        train(config, workdir, model, remake)


def train(config, workdir, model, remake=False):
    """Train one model, from flow matching's weights or from scratch."""
    with jobs.job(config, workdir, model, remake) as job:
        if job.finished is not None:
            return
        mesh, store, c = settings.mesh(config), trained.source(config, workdir), config.ntm
        shape, rows, last = trained.shape(config, store), trained.heldout(config, store), {}
        from_flow = c.start == "flow_matching"
        start = trained.network(config, workdir, mesh, "flow_matching").params if from_flow else None

        def evaluate(state):
            measure = lambda steps: heldout.likelihoods(config, shape, mesh, state.averaged, rows, steps, c.batch)
            last["likelihoods"] = [measure(steps) for steps in sorted(set(c.steps))]
            return {f"heldout_bits_{one['steps']}_steps": one["trajectory_bits"] for one in last["likelihoods"]}

        batches = image_records.batches(store, "train", c.batch, config.seed, meshes.share(mesh))
        learner = training.trajectory_learner(config, shape, mesh, model, start)
        options = dict(name=model, mesh=mesh, about=trained.description(config, shape, model), evaluate=evaluate)
        state, figures = jobs.train(config, job, c, learner, batches, **options)
        if not last:
            evaluate(state)
        job.finish(figures | last)

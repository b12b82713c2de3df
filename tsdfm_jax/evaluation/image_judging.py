"""The judge of sampled images, trained on the run's own real images where they have classes."""

import dataclasses

import jax

from tsdfm_jax.config import image_settings
from tsdfm_jax.data import image_records
from tsdfm_jax.evaluation import image_metrics
from tsdfm_jax.models import classifier
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import jobs

DIRECTORY = "classifier"  # below the job's


def train(config, job, source, mesh):
    """Train the judge of the images in the store `source`, into `classifier/model` below the job's directory: (Judge, figures).

    Without classes, or with one, nothing is trained: the judge's features are projections, and the figures say so.
    """
    about, c = image_records.about(source), config.evaluate.classifier
    if about["classes"] < 2:
        judge = image_metrics.Judge(cfg=None, params=None, mesh=mesh)
        return judge, {"features": judge.features}
    cfg = image_settings.classifier(config, about["shape"], about["classes"])
    directory = job.directory / DIRECTORY
    learner = image_metrics.learner(config, about["shape"], about["classes"], mesh)
    batches = image_records.batches(source, "train", c.batch, config.seed + image_metrics.SEED, meshes.share(mesh))
    options = dict(name=DIRECTORY, mesh=mesh, about={"shape": dataclasses.asdict(cfg)}, directory=directory)
    state, figures = jobs.train(config, job, c, learner, batches, **options)
    judge = image_metrics.Judge(cfg=cfg, params=state.averaged, mesh=mesh)
    heldout = image_records.arrays(source, "heldout")
    accuracy = image_metrics.accuracy(judge(heldout["x"])[0], heldout["y"])
    job.metrics.line(f"classifier: {figures['parameters']:,} parameters, {accuracy:.1%} of the held-out images read right")
    return judge, figures | {"features": judge.features, "heldout_accuracy": accuracy}


def load(config, source, directory, mesh):
    """The judge that `train` left below a job's `directory`."""
    about = image_records.about(source)
    if about["classes"] < 2:
        return image_metrics.Judge(cfg=None, params=None, mesh=mesh)
    cfg = image_settings.classifier(config, about["shape"], about["classes"])
    template = meshes.abstract(mesh, lambda: classifier.init(jax.random.key(0), cfg))
    params, _ = checkpoint.load_params(directory / DIRECTORY / "model", template)
    return image_metrics.Judge(cfg=cfg, params=params, mesh=mesh)

"""The judge of sampled images, trained once on the run's own real images where they have classes."""

import dataclasses
import shutil

import jax

from tsdfm_jax.config import image_settings
from tsdfm_jax.data import image_records
from tsdfm_jax.evaluation import image_metrics
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.models import classifier, transformer
from tsdfm_jax.runtime import checkpoint, hosts, loop, mesh as meshes
from tsdfm_jax.workspace import description

NAME = "classifier"
VERSION = 2  # of how judges are trained: another one is another judge
IDENTITY = "identity"  # of meta.json: what the judge was made of


def train(config, job, source, mesh):
    """The judge of the images in the store `source`, and its figures: (Judge, figures).

    It stands in `classifier-ID/model` below the job's directory. ID is of the images, the seed and the classifier's keys alone, so
    that further models are measured by the same one. It learns from the first half of the training images: the second is
    `reference`, so that it has seen none of what images are compared with. It is trained if it is not there, or damaged; those of
    other IDs are removed. Without classes, or with one, there is nothing to train, and features are projections of the pixels.
    """
    about, c = image_records.about(source), config.evaluate.classifier
    if about["classes"] < 2:
        plain = image_metrics.Judge(cfg=None, params=None, mesh=mesh)
        return plain, {"features": plain.features}
    cfg = image_settings.classifier(config, about["shape"], about["classes"])
    identity = digest([VERSION, about["hash"], config.seed, dataclasses.asdict(cfg), c.batch, c.optimiser.to_dict()])
    directory = job.directory / f"{NAME}-{identity[:12]}"
    hosts.first(lambda: _remove_others(directory))
    found = _stored(cfg, directory, identity, mesh)
    params, figures = found or _fit(config, job, source, about, cfg, directory, identity, mesh)
    return image_metrics.Judge(cfg=cfg, params=params, mesh=mesh), figures


def _seen(about):
    """Training images that the judge learns from."""
    return -(-about["counts"]["train"] // 2)


def reference(source):
    """The training images that no judge has seen, the second half: {"x": x_NHWC, "y": …}."""
    return {name: array[_seen(image_records.about(source)) :] for name, array in image_records.arrays(source, "train").items()}


def _remove_others(directory):
    for other in directory.parent.glob(f"{NAME}-*"):
        if other != directory:
            shutil.rmtree(other)


def _stored(cfg, directory, identity, mesh):
    """(weights, figures) of a judge that is whole; None if there is none."""
    template = meshes.abstract(mesh, lambda: classifier.init(jax.random.key(0), cfg))
    try:
        params, meta = checkpoint.load_params(directory / "model", template)
    except ValueError:  # missing, unfinished or damaged
        return None
    return (params, meta["figures"] | {"hash": meta["hash"]}) if meta.get(IDENTITY) == identity else None


def _fit(config, job, source, about, cfg, directory, identity, mesh):
    """Train the classifier, go on with it where it was stopped, and write it: (weights, figures)."""
    c, seed = config.evaluate.classifier, config.seed + image_metrics.SEED
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints", identity=identity)
    state, figures = loop.fit(
        image_metrics.learner(config, about["shape"], about["classes"], mesh),
        image_records.batches(source, "train", c.batch, seed, meshes.share(mesh), first=_seen(about)),
        name=NAME,
        steps=c.optimiser.steps,
        checkpoints=checkpoints,
        metrics=job.metrics,
        mesh=mesh,
        log_every=config.log_every,
        save_every=config.save_every,
        unit="images",
        units_per_step=c.batch,
        curve=f"evaluate/{NAME}",
    )
    checkpoints.close()
    trained = image_metrics.Judge(cfg=cfg, params=state.averaged, mesh=mesh)
    heldout = image_records.arrays(source, "heldout")
    accuracy = image_metrics.accuracy(trained(heldout["x"])[0], heldout["y"])
    figures |= {"parameters": transformer.parameters(state.params), "features": trained.features, "heldout_accuracy": accuracy}
    job.metrics.line(f"{NAME}: {figures['parameters']:,} parameters, reads {accuracy:.1%} of the held-out images right")
    meta = {IDENTITY: identity, "figures": figures, description.KEY: {"shape": dataclasses.asdict(cfg)}}
    return state.averaged, figures | {"hash": checkpoint.save_params(directory / "model", state.averaged, meta)["hash"]}

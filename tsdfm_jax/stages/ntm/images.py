"""Stage `images`: reads the images once, splits them, and writes them as records."""

from tsdfm_jax.config import ntm_settings
from tsdfm_jax.data import image_labels, image_records, images
from tsdfm_jax.runtime import hosts, metrics, signals
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `images/train` and `images/heldout`."""
    with jobs.job(config, workdir, "images", remake) as job:
        if job.finished is not None:
            return
        about = hosts.first(lambda: prepare(config, job))
        height, width, channels = about["shape"]
        job.metrics.line(
            f"{about['counts']['train']:,} to train on and {about['counts']['heldout']:,} held out, {height} × {width} × "
            f"{channels}, {about['classes'] or 'no'} classes"
        )
        job.finish(about)


def prepare(config, job):
    """Read, split and write the images; returns what the store says of itself. Whole shards of an earlier run stay."""
    cfg = ntm_settings.images_config(config)
    source = images.find(cfg)
    with signals.stopping(), metrics.progress("images", source.count, "image") as bar:

        def progress(done):
            bar.advance(done - bar.done)
            if signals.stop_requested():
                raise signals.Interrupted("images: stopped; the same command reads them again")

        found = images.read(cfg, source, progress)
        rows = image_labels.split(found.y, len(found.x_NHWC), cfg.holdout, cfg.seed)
        for split, numbers in zip(image_records.SPLITS, rows):
            y = None if found.y is None else found.y[numbers]
            options = dict(names=found.names, images_per_shard=cfg.images_per_shard, seed=cfg.seed, provenance=job.identity)
            image_records.write(job.directory, split, found.x_NHWC[numbers], y, **options)
    return image_records.about(job.directory)

"""Stage `autoencoder`: trains the autoencoder, whitens its latents, and writes the latents of all images as records."""

import dataclasses

from tsdfm_jax.config import image_settings, settings
from tsdfm_jax.data import image_records
from tsdfm_jax.evaluation import image_metrics
from tsdfm_jax.normalizing import autoencoder_training as training
from tsdfm_jax.runtime import checkpoint, hosts, mesh as meshes, signals
from tsdfm_jax.workspace import description, jobs


def run(config, workdir, remake=False):
    """Write `autoencoder/model` (with the whitening), `autoencoder/latents/{train,heldout}`, and how well images come back."""
    with jobs.job(config, workdir, "autoencoder", remake) as job:
        if job.finished is not None:
            return
        source, mesh = jobs.require(config, workdir, "images"), settings.mesh(config)
        shape, c = image_records.about(source)["shape"], config.autoencoder
        cfg = image_settings.autoencoder(config, shape)
        batches = image_records.batches(source, "train", c.batch, config.seed, meshes.share(mesh))
        about = {"shape": dataclasses.asdict(cfg)}
        state, figures = jobs.train(
            config, job, c, training.learner(config, shape, mesh), batches, name="autoencoder", mesh=mesh, about=about
        )
        with signals.stopping():
            params = training.whitened(cfg, state.averaged, image_records.arrays(source, "train")["x"], mesh, c.batch)
            meta = checkpoint.save_params(job.directory / "model", params, {description.KEY: about})
            quality = encode_all(cfg, params, source, job, mesh, c)
        job.metrics.line(f"{quality['heldout_psnr']:.1f} dB on held-out images, Fréchet {quality['heldout_frechet']:.2f} by pixels")
        latents = image_records.about(job.directory / "latents", "autoencoder")
        job.finish(figures | quality | {"hash": meta["hash"], "latents": latents})


def encode_all(cfg, params, source, job, mesh, c):
    """Write the latents of both splits; returns the figures of the held-out images, decoded again."""
    about, figures = image_records.about(source), {}
    for split in image_records.SPLITS:
        rows = image_records.arrays(source, split)
        z_Nhwc = training.encode(cfg, params, rows["x"], mesh, c.batch)
        options = dict(names=tuple(about["names"]), provenance=job.identity, stage="autoencoder")
        hosts.first(lambda: image_records.write(job.directory / "latents", split, z_Nhwc, rows.get("y"), **options))
        if split == "heldout":
            decoded = training.decode(cfg, params, z_Nhwc, mesh, c.batch)
            features = [image_metrics.projections(x) for x in (decoded, rows["x"])]
            figures = {
                "heldout_psnr": training.psnr(decoded, rows["x"]),
                "heldout_frechet": image_metrics.frechet(*features),
            }
    return figures

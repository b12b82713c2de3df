"""Stage `evaluate`: draws images with every model and measures them, beside real ones, and collects the likelihoods.

Each row of the table has a file of its own, which says what it was made of: a row that is there is not drawn again.
"""

import numpy as np

from tsdfm_jax.config import ntm_networks, settings
from tsdfm_jax.data import image_records
from tsdfm_jax.evaluation import image_judging, image_metrics
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.normalizing import drawing, table
from tsdfm_jax.runtime import hosts, metrics as metrics_lib
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs

VERSION = 2  # of how a row is drawn and measured: another one is measured again
ROWS = "rows"  # the folder of the rows' files


def run(config, workdir, remake=False):
    """Write `evaluate/rows.json`, a file of each row, and the images that the page shows."""
    with jobs.job(config, workdir, "evaluate", remake) as job:
        if job.finished is not None:
            return
        mesh, images = settings.mesh(config), jobs.require(config, workdir, "images")
        judge, about_judge = image_judging.train(config, job, images, mesh)
        reference, heldout = image_judging.reference(images), image_records.arrays(images, "heldout")
        reference_NF, real = image_metrics.of_real(judge, reference, heldout, config.seed)
        wanted = table.rows(config)
        hosts.first(lambda: (job.directory / ROWS).mkdir(exist_ok=True))
        draw, rows = drawing.Drawing(config, workdir, mesh, counts_K=class_counts(reference)), []
        with metrics_lib.progress("images", len(wanted), "row") as bar:
            for row in wanted:
                rows.append(measured_row(config, workdir, job, draw, judge, reference_NF, row, about_judge))
                bar.advance(1)
        figures = {"rows": len(rows), "real": real, "classifier": about_judge, "likelihoods": likelihoods(config, workdir)}
        hosts.first(lambda: atomic.overwrite(job.directory / "rows.json", atomic.json_text(atomic.finite(rows), indent=1)))
        job.finish(figures)


def class_counts(rows):
    """Records of each class, which images are drawn in the proportions of; None without classes."""
    y = rows.get("y")
    return np.bincount(y) if y is not None and y.ndim == 1 else None


def measured_row(config, workdir, job, draw, judge, reference_NF, row, about_judge):
    """The figures of a row: as they stand in its file if that was made of the same, else of images drawn now."""
    file, c = job.directory / ROWS / f"{row.name}.json", config.evaluate
    contents = [bookkeeping.done(jobs.require(config, workdir, name))["content"] for name in row.networks]
    made_of = digest([VERSION, row.name, table_of(row), c.samples, contents, about_judge.get("hash"), judge.features])
    stored = hosts.first(lambda: atomic.read_if_sealed(file))
    if stored.get("made_of") == made_of:
        return stored["row"]
    x_NHWC, y, seconds = draw(row, c.samples, c.batch)
    figures = image_metrics.measured(judge, x_NHWC, y, reference_NF)
    one = row.request
    about = {"model": one.model, "steps": one.steps, "guidance": one.guidance, "seed": row.seed, "samples": len(x_NHWC)}
    ending = {"ending": None if one.model == "flow_matching" else one.ending}
    result = about | ending | figures | {"seconds_per_image": seconds}
    hosts.first(lambda: write_row(file, result, made_of, x_NHWC, y))
    job.metrics.line(
        f"{row.name}: Fréchet {figures['frechet']:.2f}"
        + (f", accuracy {figures['accuracy']:.1%}" if figures["accuracy"] is not None else "")
    )
    return atomic.finite(result)


def table_of(row):
    """The request of a row, as plain JSON."""
    one = row.request
    return [one.model, one.steps, one.guidance, one.ending, one.level, one.shift, one.clip, row.seed]


def write_row(file, result, made_of, x_NHWC, y):
    """Write images that the page may show, then the row."""
    chosen = drawing.shown(y, len(x_NHWC), drawing.KEPT)
    content = {"images": x_NHWC[chosen].astype(np.float32)} | ({} if y is None or np.ndim(y) != 1 else {"labels": y[chosen]})
    with atomic.replacing(file.with_suffix(".npz")) as partial, open(partial, "wb") as out:
        np.savez(out, **content)
    atomic.write_sealed(file, {"made_of": made_of, "row": atomic.finite(result)})


def likelihoods(config, workdir):
    """The held-out likelihoods that stage `ntm` measured, a row for each model and number of steps."""
    found = []
    for model in ntm_networks.normalizing(config):
        figures = bookkeeping.done(jobs.require(config, workdir, model))["figures"]
        found += [{"model": model, "parameters": figures["parameters"], **one} for one in figures["likelihoods"]]
    return found

"""Stage `report`: one JSON file of all measurements, and a page that shows it with images and trajectories."""

import json
import pathlib

import numpy as np
import rich.console
import rich.table

from tsdfm_jax.config import ntm_networks, settings
from tsdfm_jax.data import image_records
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.normalizing import drawing, table
from tsdfm_jax.report import image_cells, image_grid, image_page, image_verdict
from tsdfm_jax.runtime import environment, hosts
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs, record

EXACT = {
    "exact": "the density of a whole trajectory, x at t_0 to t_T, by the change of variables; here of its T noisy levels given x_T",
    "bound": "of x at t_0 alone, with its noise: -E_q[log p(trajectory) - log q(later levels | x at t_0)]",
}
LATENT_RANGE = (-3.0, 3.0)


def run(config, workdir, remake=False):
    """Write `report/report.json` and the page `report/index.html`, and print the table."""
    with jobs.job(config, workdir, "report", remake) as job:
        jobs.require(config, workdir, "evaluate")
        if job.finished is None:
            traces = traced(config, workdir)
            hosts.first(lambda: write(config, workdir, job.directory, traces))
            job.finish({})
        hosts.first(lambda: show(job.directory, job.metrics))


def write(config, workdir, directory, traces):
    """Write the files, in one process alone."""
    report = build_report(config, workdir)
    atomic.overwrite(directory / "report.json", atomic.json_text(report, indent=1))
    image_page.write(directory / "index.html", report, {"grids": grids(config, workdir, report), "traces": traces})


def build_report(config, workdir):
    """All measurements, as report.json holds them; see report.image_page."""
    method_stages = [name for name in ("images", "autoencoder", "flow_matching") if ntm_networks.needs(config, name)]
    names = [*method_stages, *ntm_networks.normalizing(config)]
    names += ["denoiser"] * ntm_networks.needs(config, "denoiser") + ["evaluate"]
    found = {name: bookkeeping.require(pathlib.Path(workdir) / name, name) for name in names}
    total = sum(figures["seconds"] for figures in found.values())
    about = image_records.about(jobs.require(config, workdir, "images"))
    rows = json.loads((jobs.require(config, workdir, "evaluate") / "rows.json").read_text())
    report = {
        "schema": image_page.SCHEMA,
        "method": "ntm",
        "commit": environment.commit(),
        "command": record.command(workdir),
        "config": config.to_dict(),
        "environment": environment.describe(),
        "stages": {name: {**figures, "share_of_time": figures["seconds"] / total} for name, figures in found.items()},
        "data": {
            "shape": about["shape"],
            "classes": about["classes"],
            "class_names": list(about["names"]),
            "counts": about["counts"],
            "files": config.images.files or config.images.package,
        },
        "likelihoods": found["evaluate"]["likelihoods"],
        "rows": rows,
        "real": found["evaluate"]["real"],
        "exact": EXACT,
    }
    return report | {"verdict": image_verdict.sentence(report)}


def grids(config, workdir, report):
    """The pictures of real images, and of each line of the table at its first seed."""
    images = image_records.arrays(jobs.require(config, workdir, "images"), "heldout")
    directory, found = jobs.require(config, workdir, "evaluate") / "rows", []
    chosen = drawing.shown(images.get("y"), len(images["x"]), config.report.grid)
    labels = images["y"][chosen] if report["data"]["classes"] else None
    found.append({"title": "real", "model": "real", "images_NHWC": pixels(images["x"][chosen]), "labels_N": labels})
    rows = [row for row in table.rows(config) if row.seed == config.evaluate.seeds[0]]
    for row in sorted(rows, key=lambda row: row.request.model != "ntm"):  # next to the real ones
        with np.load(directory / f"{row.name}.npz") as stored:
            labels = stored["labels"] if "labels" in stored else None
            chosen = drawing.shown(labels, len(stored["images"]), config.report.grid)
            one = {"images_NHWC": pixels(stored["images"][chosen]), "labels_N": None if labels is None else labels[chosen]}
        found.append({"title": title(row.request), "model": row.request.model, **one})
    return found


def title(request):
    """What a grid shows, in a few words."""
    steps = f"{request.steps} step{'s' if request.steps > 1 else ''}"
    guidance = f", guidance {request.guidance:g}" if request.guidance else ""
    ending = "" if request.model == "flow_matching" else f", {image_cells.ENDINGS[request.ending][0]}"
    return f"{request.model.replace('_', ' ')}, {steps}{guidance}{ending}"


def pixels(x_NHWC):
    """Images, or latents that nothing decodes, as uint8."""
    low, high = (-1.0, 1.0) if x_NHWC.shape[-1] in (1, 3) else LATENT_RANGE
    return image_grid.pixels(x_NHWC, low, high)


def traced(config, workdir):
    """Some trajectories of the model `ntm` with x and u at each level, as the page shows them; none without that model."""
    if "ntm" not in ntm_networks.models(config) or not config.report.traces:
        return []
    steps = max(config.ntm.steps)
    row = table.Row(request=table.request(config, "ntm", steps), seed=config.evaluate.seeds[0])
    draw = drawing.Drawing(config, workdir, settings.mesh(config))
    return draw.traces(row, config.report.traces, pixels)


def show(directory, metrics):
    """Print the table and the verdict."""
    report = atomic.read_json(directory / "report.json")
    rich.console.Console(width=140).print(terminal_table(report))
    metrics.line(f"the page: {directory / 'index.html'}")
    metrics.line(report["verdict"])


def terminal_table(report):
    """A line for each kind of image, with means over seeds."""
    out = rich.table.Table(title=f"Images, {len(report['config']['evaluate']['seeds'])} seed(s)")
    for name in ("model", "steps", "guidance", "ending", "accuracy", "Fréchet", "ms an image"):
        out.add_column(name, justify="left" if name in ("model", "ending") else "right")
    for line in image_cells.gather(report):
        value = lambda name, scale, digits: f"{line.fields[name].value * scale:.{digits}f}" if name in line.fields else "-"
        numbers = value("accuracy", 100, 1), value("frechet", 1, 3), value("seconds_per_image", 1000, 2)
        out.add_row(line.model, str(line.steps or "-"), f"{line.guidance:g}", line.ending or "-", *numbers)
    return out

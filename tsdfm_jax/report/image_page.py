"""Write the page of an NTM run: one HTML file with samples, figures, tables and a viewer for trajectories.

Time runs from 0 = data to 1 = noise. `report` is the dict of report.json of schema "ntm-1"; every part but the schema may be
missing, null or empty, and what is missing is not shown:

  schema: "ntm-1".
  method: "ntm".
  commit, command, config, environment: as in the other method's report.
  verdict: one sentence; ratios written as ×0.78 become bold.
  stages: {stage: {seconds, share_of_time, parameters, images_per_second, peak_memory_bytes, curve [[update, loss], …]}};
    the curve of the classifier is in stages["evaluate"]["classifier"]["curve"].
  data: {shape [H, W, C], classes, class_names [str], counts {"train": n, "heldout": n}, package or files}.
  likelihoods: [{model: ntm | ntm_identity | start, steps: T, parameters, trajectory_bits: exact, bits a number of the
    trajectory; bound_bits: bits a dimension of x_t0, an upper bound; by_step: bits a number of step k = 1 … T, where step k goes
    from t_k to t_(k-1), so that the first is the one nearest to data; images: held-out images measured; t_min: t_0}].
  rows: [{model: real | flow_matching | start | ntm | ntm_identity, steps, guidance, ending: noisy | noise_free | score |
    learned, or null for flow matching; seed, samples, accuracy: 0 to 1 or null, frechet, seconds_per_image}], one for each seed.
  real: {accuracy, frechet_halves: {mean, spread}}: held-out images, and the distance between two halves of real ones.
  exact: {what: statement}: what is exact and what is a bound.

`pictures` is the dict of arrays that the page shows, or None:

  grids: [{title, model (optional: gives the title its colour), images_NHWC uint8, labels_N (int; None if there are no classes)}].
  traces: [{label: int, str or None; t_T: levels, ascending, t_0 first; x_THWC, u_THWC: uint8 at these levels}].
"""

import numpy as np

from tsdfm_jax.report import image_cells, image_grid, image_sections, pack, shell

SCHEMA = "ntm-1"
TITLE = "Normalizing Trajectory Models"
HEADING = "Does the exact likelihood of trajectories train a better few-step image model?"
POLICY = f"{shell.POLICY}; img-src data:"
SECTIONS = {  # id → heading, function that makes it
    "table": ("Metrics", image_sections.table),
    "steps": ("Against steps", image_sections.against_steps),
    "likelihood": ("Likelihood", image_sections.likelihood),
}


def write(path, report, pictures=None):
    """Write the page of a report to `path`; the same report and pictures give the same bytes.

    Raises ValueError for a report of another schema, and for pictures that are not as the module says.
    """
    schema = report.get("schema")
    if schema != SCHEMA:
        raise ValueError(
            f"report.json has schema {schema!r}, the page knows {SCHEMA!r}: run the stage report again with this version"
        )
    shell.write(path, page(report, pictures))


def page(report, pictures=None):
    """The page as a string."""
    check(pictures)
    traces = [trace(report, i, t) for i, t in enumerate((pictures or {}).get("traces") or [], 1)]
    parts = {"grids": ("Samples", image_sections.grids(report, pictures))}
    parts |= {name: (heading, make(report)) for name, (heading, make) in SECTIONS.items()}
    if traces:
        parts["viewer"] = ("Trajectories", shell.viewer("trajectory_viewer.html", choice="Trajectory", step="level"))
    parts["training"] = ("Training", image_sections.training(report))
    parts["making"] = ("How this report was made", image_sections.made(report))
    return shell.frame(
        TITLE,
        HEADING,
        image_sections.answer(report),
        parts,
        data=pack.script_json({"trajectories": traces}) if traces else None,
        scripts=("walker.js", "trajectory_viewer.js"),
        policy=POLICY,
    )


def check(pictures):
    """Raise ValueError, in one line, for labels or levels that do not belong to their images."""
    for grid in (pictures or {}).get("grids") or []:
        n, labels = len(grid["images_NHWC"]), grid.get("labels_N")
        if labels is not None and len(labels) != n:
            raise ValueError(f"grid {grid['title']!r} has {n} images and {len(labels)} labels: give each image its label, or none")
    for i, t in enumerate((pictures or {}).get("traces") or []):
        levels, shapes = len(t["t_T"]), [np.shape(t[name]) for name in ("x_THWC", "u_THWC")]
        if levels < 2 or any(len(shape) != 4 or shape[0] != levels for shape in shapes):
            raise ValueError(
                f"trace {i} has {levels} levels, x {shapes[0]} and u {shapes[1]}: give 2 levels or more, [levels, H, W, C] each"
            )
        if list(t["t_T"]) != sorted(t["t_T"]):
            raise ValueError(f"trace {i} has the levels {list(map(float, t['t_T']))}: order them from data (t_0) to noise (1)")


def trace(report, number, t):
    """A trajectory as the viewer reads it, from noise to data, each picture as a data URI."""
    name = image_cells.class_name(report, t.get("label"))
    told = {"name": f"{number}, {name}" if name else str(number), "label": name, "t": [round(float(v), 3) for v in t["t_T"]][::-1]}
    for key in ("x", "u"):
        images = image_grid.visible(np.asarray(t[f"{key}_THWC"]))
        told[key] = [image_grid.uri(image_grid.png(image[None])) for image in images[::-1]]
        told[f"{key}_shape"] = [int(images.shape[1]), int(images.shape[2])]
    return told

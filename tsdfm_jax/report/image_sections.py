"""The sections of an NTM page as HTML; each function gives "" if there is no data. All text is escaped.

Time runs from 0 = data to 1 = noise.
"""

from html import escape

import numpy as np

from tsdfm_jax.report import cells, image_cells, image_figures, image_grid, making, sections, shell, svg

COLUMNS = {  # field → heading, factor, decimals, description
    "accuracy": (
        "accuracy, %",
        100,
        1,
        "share of the images that a classifier of real images takes for the class they were drawn for",
    ),
    "frechet": ("Fréchet", 1, 3, "Fréchet distance to real images that the classifier has not seen, in its features; 0 is best"),
    "seconds_per_image": ("ms an image", 1000, 2, "milliseconds to sample one image in a batch, without compilation"),
}


def answer(report):
    """The verdict, and what it rests on: seeds, images, and real images measured in the same way."""
    verdict = shell.verdict(report.get("verdict"))
    lines = image_cells.gather(report)
    made = [c for c in lines if c.model != "real"]
    if not verdict or not made:
        return verdict
    seeds = max(c.seeds for c in made)
    samples = f": {made[0].samples:,} images for each line of the table" if made[0].samples else ""
    sentence = f"Based on {'one seed' if seeds == 1 else f'{seeds} seeds'}{samples}{'' if seeds == 1 else ' and seed'}."
    real = next((c for c in lines if c.model == "real"), None)
    if real and "frechet" in real.fields:
        sentence += f" The Fréchet distance between two halves of the real images is {real.fields['frechet'].value:.3f}."
    return f'{verdict}<p class="caveat">{escape(sentence)}</p>'


def grids(report, pictures):
    """Samples: a column for each grid, a row for each class."""
    shown = [grid for grid in (pictures or {}).get("grids") or [] if len(grid["images_NHWC"])]
    if not shown:
        return ""
    labels = [grid.get("labels_N") for grid in shown]
    classed = all(found is not None and np.ndim(found) == 1 and np.min(found) >= 0 for found in labels)
    classes = sorted({int(y) for found in labels for y in found}) if classed else [None]
    heads = "".join(f'<th scope="col">{grid_title(grid)}</th>' for grid in shown)
    rows = []
    for y in classes:
        name = image_cells.class_name(report, y)
        head = f'<th scope="row" title="{escape(name)}">{escape(name)}</th>' if classed else ""
        rows.append(f"<tr>{head}{''.join(f'<td>{sprite(grid, y, name)}</td>' for grid in shown)}</tr>")
    corner = '<th scope="col">class</th>' if classed else ""
    table = f'<table class="grids"><thead><tr>{corner}{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    note = "Nothing is picked out: the first images of each class." if classed else "Nothing is picked out: the first images."
    return shell.scroller("Samples", table) + f'<p class="note">{note}</p>'


def grid_title(grid):
    """A grid's title, with its model's colour if the grid names a model."""
    title = escape(str(grid["title"]))
    model = grid.get("model")
    return (
        f'<span class="swatch {escape(str(model))}" style="--c: {svg.variable(model)}">{title}</span>'
        if model in svg.MODELS
        else title
    )


def sprite(grid, y, name):
    """The images of one class (all if `y` is None) as one picture."""
    images = np.asarray(grid["images_NHWC"])
    images = images if y is None else images[np.asarray(grid["labels_N"]) == y]
    if not len(images):
        return "–"
    n, gap = len(images), 1
    _, h, w, _ = image_grid.visible(images).shape
    columns = n if y is not None else min(n, 5)
    scale = max(1, round(36 / w)) if w <= 72 else 72 / w
    width = (columns * (w + gap) - gap) * scale
    height = (-(-n // columns) * (h + gap) - gap) * scale
    what = f"{n} image{'s' * (n != 1)}{f' of class {name}' if name else ''}: {grid['title']}"
    data = image_grid.uri(image_grid.png(images, columns=columns, gap=gap))
    return f'<img class="pixels" src="{data}" width="{width:.0f}" height="{height:.0f}" alt="{escape(what)}">'


def table(report):
    """The table of metrics: a line for each model, number of steps, guidance and ending; real images are set apart."""
    lines = image_cells.gather(report)
    if not any(c.fields for c in lines):
        return ""
    columns = {name: column for name, column in COLUMNS.items() if any(name in c.fields for c in lines)}
    guided, ended = any(c.guidance for c in lines), any(c.ending not in ("", "noisy") for c in lines)
    heads = "".join(f'<th scope="col" title="{escape(what)}">{escape(title)}</th>' for title, _, _, what in columns.values())
    options = ["steps"] + ["guidance"] * guided + ["ending"] * ended
    head = '<th scope="col">images</th>' + "".join(f'<th scope="col">{name}</th>' for name in options) + heads
    known, bodies, last = [c.model for c in lines], [], None
    for c in lines:
        if c.model != last:
            bodies.append(f'{"</tbody>" if last else ""}<tbody class="{"apart" if c.model == "real" else "made"}">')
            last = c.model
        shown = [f"{c.steps:,}" if c.steps else "–"]
        shown += [f"{c.guidance:g}" if c.model != "real" else "–"] * guided
        shown += [escape(image_cells.ENDINGS.get(c.ending, (c.ending or "–",))[0])] * ended
        shown += [metric(c, name) for name in columns]
        bodies.append(f'<tr><th scope="row">{sections.swatch(c.model, known)}</th>{"".join(f"<td>{v}</td>" for v in shown)}</tr>')
    body = f"<table><thead><tr>{head}</tr></thead>{''.join(bodies)}</tbody></table>"
    return shell.scroller("Metrics", body) + table_note(lines, columns)


def metric(c, name):
    """One cell: mean and standard deviation in the column's unit."""
    _, factor, decimals, _ = COLUMNS[name]
    m = c.fields.get(name)
    if m is None:
        return "–"
    scaled = cells.Mean(*(None if v is None else factor * v for v in m))
    if name == "seconds_per_image":  # the spread of a time says nothing of a model
        scaled = scaled._replace(spread=None)
    return sections.value(scaled, decimals)


def table_note(lines, columns):
    """What the table's lines and columns mean."""
    facts = []
    seeds = max(c.seeds for c in lines)
    facts.append(f"Means over {seeds} seeds ± standard deviation." if seeds > 1 else "One seed.")
    if "accuracy" in columns:
        facts.append("Accuracy: share of the images that the classifier takes for the class they were drawn for.")
    if "frechet" in columns:
        facts.append("Fréchet: distance to held-out images in the classifier's features.")
        if any(c.model == "real" and "frechet" in c.fields for c in lines):
            facts.append("The first line is real images: its Fréchet distance is between two halves of them.")
    used = {c.ending for c in lines}
    if used - {"", "noisy"}:
        told = "; ".join(f"{name}: {what}" for key, (name, what) in image_cells.ENDINGS.items() if key in used)
        facts.append(f"Endings. {told[0].upper()}{told[1:]}.")
    return f'<p class="note">{escape(" ".join(facts))}</p>'


def likelihood(report):
    """Exact likelihoods of held-out trajectories and bounds for images, what the transporter is worth, and bits by step."""
    rows = image_cells.likelihoods(report)
    if not rows:
        return ""
    lines = []
    for r in rows:
        values = [f"{r['steps']:,}", image_cells.size(r.get("parameters")), sections.plain(r.get("trajectory_bits"), 3)]
        values.append(f"≤ {r['bound_bits']:,.3f}" if cells.number(r.get("bound_bits")) else "–")
        values = [v.replace("-", "−") for v in values]
        lines.append(f'<tr><th scope="row">{sections.swatch(r["model"], ())}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>')
    heads = ("model", "steps", "parameters", "trajectory, bits a number (exact)", "image, bits a dimension (bound)")
    out = making.grid("Likelihood", heads, lines) + "".join(transporter_worth(rows)) + likelihood_note(report, rows)
    drawn = image_figures.by_step(report)
    if drawn:
        out += f"<h3>by step</h3>{legend([r['model'] for r in rows])}{shell.panels(drawn)}"
    return out


def transporter_worth(rows):
    """A sentence for each number of steps at which both models were measured."""
    by_model = {(r["model"], r["steps"]): r for r in rows if cells.number(r.get("trajectory_bits"))}
    for steps in dict.fromkeys(r["steps"] for r in rows):
        with_it, without = by_model.get(("ntm", steps)), by_model.get(("ntm_identity", steps))
        if with_it and without:
            gained = without["trajectory_bits"] - with_it["trajectory_bits"]
            more = [r.get("parameters") for r in (with_it, without)]
            more = more[0] - more[1] if all(map(cells.number, more)) else 0
            more = f", with {image_cells.size(more)} more parameters" if more > 0 else ""
            change = f"{abs(gained):.3f} bits a number {'less' if gained >= 0 else 'more'}"
            yield f'<p class="matched">At T = {steps} a trajectory costs {change} with the transporter than without it{escape(more)}.</p>'


def likelihood_note(report, rows):
    """What is exact, what is a bound, and what the figures are of."""
    facts = []
    for what, statement in (report.get("exact") or {}).items():
        facts.append(f"<b>{escape(str(what).replace('_', ' ').capitalize())}</b>: {escape(str(statement))}")
    images = next((r["images"] for r in rows if cells.number(r.get("images"))), None)
    t_min = next((r["t_min"] for r in rows if cells.number(r.get("t_min"))), None)
    of = [f"{images:,} held-out images" if images else "", f"trajectories from t = {t_min:g} to 1" if t_min is not None else ""]
    of = ", ".join(part for part in of if part)
    facts.append(
        f"{f'Measured on {of}. ' if of else ''}Lower is better. Densities are of continuous numbers: bits may be below 0, and compare"
        " only for the same data and the same levels of noise."
    )
    return "".join(f'<p class="note">{fact}</p>' for fact in facts)


def legend(models):
    """Models with their colours."""
    known = list(dict.fromkeys(models))
    return '<p class="legend">' + "".join(sections.swatch(m, known) for m in known) + "</p>"


def against_steps(report):
    """Fréchet distance and accuracy against steps."""
    drawn = [shell.panels(found) for field in image_figures.SCALES if (found := image_figures.against_steps(report, field))]
    if not drawn:
        return ""
    lines = [c for c in image_cells.gather(report) if c.model != "real"]
    used = {c.ending or "noisy" for c in lines}
    keys = [dash(image_figures.DASHES[key], name) for key, (name, _) in image_cells.ENDINGS.items() if key in used]
    dashes = f'<p class="legend note">{"".join(keys)}</p>' if len(keys) > 1 else ""
    return legend([c.model for c in lines]) + dashes + "".join(drawn)


def dash(style, name):
    """A short line in a dash pattern, with its meaning."""
    pattern = "" if style == "-" else f' stroke-dasharray="{" ".join(f"{1.6 * v:g}" for v in style[1])}"'
    return f'<span class="dash"><svg viewBox="0 0 34 6" aria-hidden="true"><path d="M0 3h34"{pattern}/></svg>{escape(name)}</span>'


def training(report):
    """Training losses."""
    drawn = image_figures.losses(report)
    if not drawn:
        return ""
    both = [n for n in ("ntm", "ntm_identity") if ((report["stages"].get(n)) or {}).get("curve")]
    return (legend(both) if len(both) > 1 else "") + shell.panels(drawn)


def made(report):
    """Command, environment, data, stages and config."""
    stages = (report.get("stages") or {}).values()
    columns = [key for key in making.STAGE_COLUMNS if key != "tokens_per_second" and any(cells.number(f.get(key)) for f in stages)]
    return making.sources(report) + data(report) + making.stages(report, columns) + making.config(report)


def data(report):
    """A sentence on the images."""
    told = report.get("data") or {}
    if not told:
        return ""
    counts = told.get("counts") or {}
    parts = [
        ", ".join(f"{n:,} {escape(str(name).replace('heldout', 'held out'))}" for name, n in counts.items() if cells.number(n))
    ]
    parts.append(f"{escape(' × '.join(map(str, told['shape'])))} numbers each" if told.get("shape") else "")
    parts.append(f"{told['classes']:,} classes" if cells.number(told.get("classes")) and told["classes"] > 0 else "")
    parts.append(
        f"from {escape(str(told.get('files') or told.get('package')))}" if told.get("files") or told.get("package") else ""
    )
    return f'<p class="note">Images: {"; ".join(part for part in parts if part)}.</p>'

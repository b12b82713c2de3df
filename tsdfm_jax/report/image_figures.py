"""The figures of an NTM page; each function gives a list of (title, SVG), empty if the report has no data for it.

Time runs from 0 = data to 1 = noise; step k goes from level t_k to t_(k-1), so sampling ends with step 1.
"""

from tsdfm_jax.report import cells, figures, image_cells, svg

DASHES = {"": "-", "noisy": "-", "noise_free": (0, (4, 1.8)), "score": (0, (1.2, 1.6)), "learned": (0, (7, 1.6, 1.2, 1.6))}
MARKERS = {"flow_matching": "s", "start": "v", "ntm": "o", "ntm_identity": "^"}
SCALES = {"frechet": ("Fréchet distance", 1), "accuracy": ("accuracy, %", 100)}
TRAINED = {  # title → networks of one panel, by their stage
    "autoencoder": ("autoencoder",),
    "flow matching": ("flow_matching",),
    "NTM": ("ntm", "ntm_identity"),
    "denoiser": ("denoiser",),
    "classifier": ("classifier",),
}


def against_steps(report, field):
    """A field of SCALES against steps, a panel for each weight of guidance; real images are a horizontal line."""
    title, scale = SCALES[field]
    lines = image_cells.gather(report)
    level = next((scale * c.fields[field].value for c in lines if c.model == "real" and field in c.fields), None)
    made = [c for c in lines if c.model != "real" and c.steps and field in c.fields]
    weights = sorted({c.guidance for c in made})
    out = []
    for weight in weights:
        curves = {}
        for c in (c for c in made if c.guidance == weight):
            curves.setdefault((c.model, c.ending), []).append((c.steps, c.fields[field]))
        heading = f"{title}, guidance {weight:g}" if len(weights) > 1 or weight else title
        said = f"{heading} against steps. " + "; ".join(describe(k, points, scale) for k, points in curves.items())
        paint = lambda axes, curves=curves: steps_panel(axes, curves, level, field)
        out.append((heading, svg.draw(f"{field}-{weight:g}", paint, said)))
    return out


def describe(key, points, scale):
    model, ending = key
    name = cells.label(model) + (f", {ending.replace('_', '-')}" if ending else "")
    return f"{name}: " + ", ".join(f"{scale * m.value:.3g} at {steps} steps" for steps, m in points)


def steps_panel(axes, curves, level, field):
    name, scale = SCALES[field]
    for (model, ending), points in curves.items():
        steps, means = zip(*points)
        style = {"color": svg.colour(model, [m for m, _ in curves]), "linestyle": DASHES.get(ending, "-.")}
        hollow = {"markerfacecolor": "none"} if ending not in ("", "noisy") else {}
        axes.plot(steps, [scale * m.value for m in means], marker=MARKERS.get(model, "D"), **style, **hollow)
        if any(m.spread for m in means):
            axes.vlines(steps, [scale * m.low for m in means], [scale * m.high for m in means], color=style["color"], linewidth=1)
    values = [scale * m.value for points in curves.values() for _, m in points]
    if level is not None:
        axes.axhline(level, color=svg.INK, linewidth=1.1)
        values.append(level)
    every = sorted({s for points in curves.values() for s, _ in points})
    if len(every) > 1:
        figures.log_axis(axes.xaxis, every, base=2)
    else:
        axes.set_xticks(every)
    if field == "frechet" and min(values) > 0 and max(values) > min(values):
        figures.log_axis(axes.yaxis, values)
    axes.margins(0.1)
    axes.set_xlabel("steps")
    axes.set_ylabel(name)
    if level is not None:
        high = level > (min(values) + max(values)) / 2
        place = {"xytext": (0, -3 if high else 3), "va": "top" if high else "bottom"}
        axes.annotate(
            "real",
            (0.995, level),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=svg.INK,
            **place,
        )


def by_step(report):
    """Bits of each step of held-out trajectories, a panel for each T; sampling goes from left to right."""
    groups = {}
    for row in image_cells.likelihoods(report):
        if row.get("by_step") and all(map(cells.number, row["by_step"])):
            groups.setdefault(len(row["by_step"]), []).append(row)
    out = []
    for steps, rows in groups.items():
        said = f"Bits by step, T = {steps}. " + "; ".join(
            f"{cells.label(r['model'])}: " + ", ".join(f"{v:.3g} in step {k}" for k, v in enumerate(r["by_step"], 1)) for r in rows
        )
        out.append((f"bits by step, T = {steps}", svg.draw(f"bits-{steps}", lambda axes, rows=rows: bits_panel(axes, rows), said)))
    return out


def bits_panel(axes, rows):
    steps = len(rows[0]["by_step"])
    for row in rows:
        style = {"marker": MARKERS.get(row["model"], "D"), "linestyle": "-" if row["model"] == "ntm" else (0, (4, 1.8))}
        positions = range(steps, 0, -1)
        axes.plot(range(steps), [row["by_step"][k - 1] for k in positions], color=svg.colour(row["model"]), **style)
    axes.set_xticks(range(steps), [str(k) for k in range(steps, 0, -1)])
    axes.set_xlabel(f"step, from noise ({steps}) to data (1)")
    axes.set_ylabel("bits a number")
    axes.margins(0.1)


def losses(report):
    """Training losses, a panel for each kind of network. The first updates do not stretch the axis."""
    stages = dict(report.get("stages") or {})
    classifier = (stages.get("evaluate") or {}).get("classifier")
    if isinstance(classifier, dict):
        stages["classifier"] = classifier
    out = []
    for title, names in TRAINED.items():
        curves = {n: [p for p in (stages.get(n) or {}).get("curve") or [] if cells.number(p[1])] for n in names}
        curves = {n: curve for n, curve in curves.items() if curve}
        if curves:
            said = f"Training loss of {title}: " + ", ".join(f"{cells.label(n)} ends at {c[-1][1]:.3g}" for n, c in curves.items())
            out.append((title, svg.draw(f"loss-{title}", lambda axes, curves=curves: loss_panel(axes, curves), said)))
    return out


def loss_panel(axes, curves):
    for name, curve in curves.items():
        updates, values = zip(*curve)
        colour = svg.colour(name) if name in svg.MODELS else svg.ACCENT
        axes.plot(updates, values, color=colour, linewidth=1.3, linestyle=(0, (4, 1.5)) if name == "ntm_identity" else "-")
    settled = [v for curve in curves.values() for _, v in curve[len(curve) // 20 :]]
    low, high = min(settled), max(settled)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel("updates")
    axes.set_ylabel("loss")

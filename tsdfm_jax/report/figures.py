"""The page's figures; each function gives a list of (title, SVG), empty if the report has no data for it."""

import math

from tsdfm_jax.report import cells, svg

LINE_STYLES = {  # each model has its own marker and dash pattern, besides its colour
    "teacher": {"marker": "s", "linestyle": (0, (5, 1.6))},
    "student_shaped": {"marker": "o", "linestyle": "-"},
    "student_blind": {"marker": "^", "linestyle": (0, (1.2, 1.4))},
    "autoregressive": {"marker": "v", "linestyle": (0, (7, 1.4, 1.2, 1.4))},
}
STAR = {"marker": "*", "markersize": 11, "linestyle": "none", "zorder": 5}


def line_style(model):
    """Marker and dash pattern of a model."""
    return LINE_STYLES.get(model, {"marker": "D", "linestyle": "-."})


def log_axis(axis, values, base=10):
    """Make an axis logarithmic, with plain numbers: at the values (base 2), or at round numbers between them (base 10)."""
    from matplotlib import ticker

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log", base=base)
    values = sorted(set(values))
    if base == 2:
        shown = values if len(values) < 10 else values[:: -(-len(values) // 9)]
        axis.set_major_locator(ticker.FixedLocator(shown))
    else:
        ratio = max(values) / min(values)
        subs = (1, 1.5, 2, 3, 4, 5, 7) if ratio < 5 else (1, 2, 3, 5) if ratio < 30 else (1, 2, 5) if ratio < 300 else (1,)
        axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=30))
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.6g}"))
    axis.set_minor_locator(ticker.NullLocator())


def against_steps(report):
    """Perplexity against steps, a panel for each judge; real text and texts from elsewhere are horizontal lines."""
    table = cells.gather(report)
    known = [c.model for c in table]
    out = []
    for name, row in cells.judges(report).items():
        lines = {}
        for c in table:
            if name in c.ppl and c.model != "unigram":
                lines.setdefault(c.model, []).append((c.steps, c.ppl[name]))
        if any(steps for points in lines.values() for steps, _ in points):
            title = cells.judge_label(name, row)
            paint = lambda axes, lines=lines: steps_panel(axes, lines, known)
            aria_label = f"Perplexity against steps, {title}. " + "; ".join(map(describe_steps, lines, lines.values()))
            out.append((title, svg.draw(f"steps-{name}", paint, aria_label)))
    return out


def describe_steps(model, points):
    return f"{cells.label(model)}: " + ", ".join((f"{m.value:.0f} at {s} steps" if s else f"{m.value:.0f}") for s, m in points)


def steps_panel(axes, lines, known):
    every = [s for points in lines.values() for s, _ in points if s]
    for model, points in lines.items():
        colour = svg.colour(model, known)
        if not points[0][0]:
            axes.axhline(points[0][1].value, color=colour, linewidth=1.1, linestyle="-" if model == "data" else "-.")
            continue
        steps, means = zip(*points)
        axes.plot(steps, [m.value for m in means], color=colour, **line_style(model))
        if any(m.spread for m in means):
            axes.vlines(steps, [m.low for m in means], [m.high for m in means], color=colour, linewidth=1)
    log_axis(axes.xaxis, every, base=2)
    log_axis(axes.yaxis, [m.value for points in lines.values() for _, m in points])
    axes.set_xlabel("steps")
    axes.set_ylabel("perplexity")
    axes.margins(y=0.1)
    if "data" in lines:
        real_ppl = lines["data"][0][1].value
        axes.annotate("real text", (max(every), real_ppl), (0, -3), textcoords="offset points", ha="right", va="top", color=svg.INK)


def against_entropy(report):
    """Perplexity against entropy, a panel for each judge: frontiers over temperature, or else the table's points."""
    table = cells.gather(report)
    known = [c.model for c in table]
    frontiers = report.get("frontiers") or []
    out = []
    for name, row in cells.judges(report).items():
        points = [
            (c, c.fields["entropy_nats"].value, c.ppl[name].value) for c in table if name in c.ppl and "entropy_nats" in c.fields
        ]
        curves = [f for f in frontiers if f["judge"] == name and any(has_point(p) for p in f["points"])]
        shown = [p for p in points if p[0].model not in ("unigram", "data")]
        if curves or shown:
            star = next(((x, y) for c, x, y in points if c.model == "data"), None)
            matched_rows = [m for m in report.get("matched") or [] if m["judge"] == name and cells.number(m["entropy_nats"])]
            matched_entropies = sorted({m["entropy_nats"] for m in matched_rows})
            title = cells.judge_label(name, row)
            paint = lambda axes, c=curves, p=shown, s=star, a=matched_entropies: entropy_panel(axes, c, p, s, a, known)
            what = f"{len(curves)} frontiers over temperature" if curves else f"{len(shown)} points of the table"
            out.append((title, svg.draw(f"entropy-{name}", paint, f"Perplexity against entropy in nats, {title}: {what}.")))
    return out


def has_point(point):
    return cells.number(point.get("entropy_nats")) and cells.number(point.get("ppl_token"))


def entropy_panel(axes, curves, shown, star, matched, known):
    every = [star[1]] if star else []
    for curve in curves:
        points = sorted((p for p in curve["points"] if has_point(p)), key=lambda p: p["entropy_nats"])
        every += [p["ppl_token"] for p in points]
        frontier(axes, curve, points, svg.colour(curve["model"], known))
    for c, x, y in [] if curves else shown:
        every.append(y)
        axes.plot([x], [y], color=svg.colour(c.model, known), marker=line_style(c.model)["marker"], linestyle="none")
        if c.steps:
            axes.annotate(f"{c.steps}", (x, y), (5, -2), textcoords="offset points", fontsize=7.5)
    if star:
        axes.plot(*([v] for v in star), color=svg.INK, **STAR)
        axes.annotate("real text", star, (0, -12), textcoords="offset points", ha="center", color=svg.INK)
    for entropy in matched:
        axes.axvline(entropy, color=svg.SOFT, linewidth=0.9, linestyle=(0, (2, 2)))
    log_axis(axes.yaxis, every)
    axes.margins(0.1)
    axes.set_xlabel("entropy, nats")
    axes.set_ylabel("perplexity")


def frontier(axes, curve, points, colour):
    """One curve with its bootstrap intervals and its number of steps."""
    x, y = [p["entropy_nats"] for p in points], [p["ppl_token"] for p in points]
    axes.plot(x, y, color=colour, **line_style(curve["model"]))
    for p in points:
        if cells.number(p.get("ppl_low")) and cells.number(p.get("ppl_high")):
            axes.vlines(p["entropy_nats"], p["ppl_low"], p["ppl_high"], color=colour, linewidth=0.9, alpha=0.7)
        if cells.number(p.get("entropy_low")) and cells.number(p.get("entropy_high")):
            axes.hlines(p["ppl_token"], p["entropy_low"], p["entropy_high"], color=colour, linewidth=0.9, alpha=0.7)
    axes.annotate(f"{curve['steps']}", (x[-1], y[-1]), (5, 2), textcoords="offset points", color=colour)


def losses(report):
    """Training losses of teacher, students, autoregressive model, trained compass and judges."""
    stages = report.get("stages") or {}
    curves = {name: f.get("curve") for name, f in stages.items() if f.get("curve")}
    judges = ((stages.get("judges") or {}).get("judges") or {}).items()
    rounds = sorted({name.split("_")[-1] for name in curves if name.startswith("student/")})
    panels = {
        "teacher": {"teacher": curves.get("teacher")},
        **{
            f"students, round {r}" if len(rounds) > 1 else "students": {
                f"student_{v}": curves.get(f"student/{v}/round_{r}") for v in ("shaped", "blind")
            }
            for r in rounds
        },
        "autoregressive": {"autoregressive": curves.get("autoregressive")},
        "compass": {"compass": curves.get("compass")},
        "judges": {f"judge {name}": f.get("curve") for name, f in judges},
    }
    out = []
    for title, series in panels.items():
        series = {name: [p for p in curve or [] if cells.number(p[1])] for name, curve in series.items()}
        series = {name: curve for name, curve in series.items() if curve}
        if series:
            aria_label = f"Training loss of {title}: " + ", ".join(f"{name} ends at {c[-1][1]:.2f}" for name, c in series.items())
            out.append((title, svg.draw(f"loss-{title}", lambda axes, series=series: loss_panel(axes, series), aria_label)))
    return out


def loss_panel(axes, series):
    for name, curve in series.items():
        own = name in svg.MODELS
        colour = svg.colour(name) if own else svg.ACCENT if name == "compass" else svg.SOFT
        steps, values = zip(*curve)
        axes.plot(steps, values, color=colour, linewidth=1.3, linestyle=line_style(name)["linestyle"] if own else "-")
        if name.startswith("judge"):
            axes.annotate(name.split()[-1], (steps[-1], values[-1]), (3, -2), textcoords="offset points")
    axes.set_xlabel("updates")
    axes.set_ylabel("loss")


def compass(report):
    """The compass's accuracy (how often it prefers the data's midpoint) and AUC, by step size, by time and by depth."""
    metrics = report.get("compass") or {}
    panels = {"by step size": ("by_step_size", "h"), "by time": ("by_time", "time"), "by depth": ("by_depth", "depth")}
    out = []
    for title, (field, key) in panels.items():
        rows = [row for row in metrics.get(field) or [] if cells.number(row.get("accuracy")) or cells.number(row.get("auc"))]
        if rows:
            labelled = [(fraction(row[key]) if key == "h" else str(row[key]), row) for row in rows]
            paint = lambda axes, labelled=labelled, key=key: compass_panel(axes, labelled, {"h": "step size h"}.get(key, key))
            aria_label = f"Compass {title}: " + "; ".join(f"{name}: {describe_compass(row)}" for name, row in labelled)
            out.append((title, svg.draw(f"compass-{field}", paint, aria_label)))
    return out


def describe_compass(row):
    return ", ".join(
        f"{what} {row[key]:.2f}" for key, what in (("accuracy", "accuracy"), ("auc", "AUC")) if cells.number(row.get(key))
    )


def fraction(h):
    """A step size as text, such as 1/8 if it is one over a power of two."""
    return f"1/{round(1 / h)}" if cells.number(h) and 0 < h < 1 and math.log2(h).is_integer() else f"{h:g}"


def compass_panel(axes, labelled, key):
    positions = range(len(labelled))
    blank = lambda value: value if cells.number(value) else math.nan
    axes.axhline(0.5, color=svg.SOFT, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.plot(positions, [blank(row.get("accuracy")) for _, row in labelled], color=svg.ACCENT, marker="o")
    axes.plot(
        positions,
        [blank(row.get("auc")) for _, row in labelled],
        color=svg.SOFT,
        marker="s",
        linestyle=(0, (4, 1.5)),
        markersize=3.8,
    )
    crowded = len(labelled) > 7
    axes.set_xticks(positions, [name for name, _ in labelled], rotation=50 if crowded else 0)
    axes.set_xlabel(key)
    axes.set_ylim(0.35, 1.03)


def energies(report):
    """Energies of the K candidates at each midpoint, and how often the first draw was kept."""
    shaping = report.get("shaping") or {}
    points = [p for p in shaping.get("midpoints") or [] if cells.number(p.get("lowest"))]
    if not points:
        return []
    aria_label = "Candidate energies by time: " + "; ".join(
        f"{p['time']:.3g}: {p['lowest']:.3g} to {p['highest']:.3g}" for p in points
    )
    out = [("candidate energies", svg.draw("energies", lambda axes: energy_panel(axes, points), aria_label))]
    kept = [p for p in points if cells.number(p.get("first_kept"))]
    if kept:
        aria_label = "How often the first draw is kept: " + "; ".join(f"{p['time']:.3g}: {p['first_kept']:.0%}" for p in kept)
        paint = lambda axes: first_panel(axes, kept, shaping["candidates"])
        out.append(
            (
                f"how often the first draw is kept; dashed line: chance, 1/{shaping['candidates']}",
                svg.draw("first-draw", paint, aria_label),
            )
        )
    return out


def energy_panel(axes, points):
    times = [p["time"] for p in points]
    axes.fill_between(times, [p["lowest"] for p in points], [p["highest"] for p in points], color=svg.SOFT, alpha=0.18, linewidth=0)
    axes.plot(times, [p["mean"] for p in points], color=svg.SOFT, linewidth=1.1, linestyle=(0, (4, 1.5)))
    axes.plot(times, [p["first"] for p in points], color=svg.MODELS["student_blind"], **LINE_STYLES["student_blind"])
    axes.plot(times, [p["kept"] for p in points], color=svg.MODELS["student_shaped"], **LINE_STYLES["student_shaped"])
    axes.set_xlabel("time of the midpoint")
    axes.set_ylabel("energy")


def first_panel(axes, points, candidates):
    from matplotlib.ticker import PercentFormatter

    times = [p["time"] for p in points]
    width = 0.7 * min((b - a for a, b in zip(times, times[1:])), default=0.1)
    axes.bar(times, [p["first_kept"] for p in points], width=width, color=svg.ACCENT, alpha=0.75)
    axes.axhline(1 / candidates, color=svg.INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("time of the midpoint")

"""The study's figures: perplexity against steps and against entropy, the effect of the compass and of each factor."""

import math

from tsdfm_jax.experiments.study import compass as study_compass, reading as study_read, runs as study_runs

STYLE = {"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
STYLE |= {"svg.fonttype": "none", "figure.facecolor": "white", "savefig.facecolor": "white"}
COLOURS = {"teacher": "#555555", "blind": "#c0504d", "random": "#d9a441", "shaped": "#1f6f8b", "token": "#8064a2"}
COLOURS |= {
    "sequence": "#4bacc6",
    "sequence_to_token": "#4f9a58",
    "fsdfm": "#8c6d46",
    "sdtt": "#e377c2",
    "autoregressive": "#000000",
}


def write(summary, directory):
    """Write one SVG a figure into `directory`; returns their paths. Figures without data are left out."""
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for source, results in summary["sources"].items():
        for name, draw in DRAWN.items():
            with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
                figure = draw(results)
                if figure is not None:
                    files.append(directory / f"{name}-{source}.svg")
                    figure.savefig(files[-1], metadata={"Date": None})
    return files


def _axes(columns, width=3.2, height=2.9):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _main(results):
    return {name: arm["steps"] for name, arm in results["arms"].items() if arm["factor"] == "main"}


def _others(results):
    """The teacher's and the autoregressive model's rows, where they exist."""
    return {name: results["references"][name] for name in ("teacher", study_runs.AUTOREGRESSIVE) if name in results["references"]}


def _line_style(name):
    """Line style of an arm; the config's own shaping is drawn above the others."""
    return {"marker": "o", "ms": 3, "color": COLOURS[name]} | ({"lw": 1.8, "zorder": 3} if name == "shaped" else {"lw": 1.2})


def _title(results, judge):
    return f"judge of {results['judges'][judge] / 1e6:.2f}M"


def against_steps(results):
    """Perplexity at each number of steps: the mean over seeds, and each seed."""
    arms = {**_others(results), **_main(results)}
    figure, axes = _axes(len(results["judges"]))
    for ax, judge in zip(axes, results["judges"]):
        for name, by_steps in arms.items():
            step_counts = [int(steps) for steps in by_steps]
            seed_values = [[row["ppl_token"][judge] for row in rows] for rows in by_steps.values()]
            ax.plot(step_counts, [sum(v) / len(v) for v in seed_values], label=name, **_line_style(name))
            for x, values in zip(step_counts, seed_values):
                ax.scatter([x] * len(values), values, s=5, alpha=0.5, color=COLOURS[name], linewidths=0)
        real = study_read.mean(results["references"]["data"]["0"], judge)
        ax.axhline(real, color="black", lw=0.8, ls=":")
        ax.annotate("held-out text", (1, real), (0, 2), textcoords="offset points", fontsize=7)
        ax.set(xscale="log", yscale="log", xlabel="steps", title=_title(results, judge))
        ax.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
    axes[0].set_ylabel("perplexity (ppl_token)")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def against_entropy(results):
    """Each main arm's frontier over temperature, with teacher, autoregressive model and held-out text as points."""
    if not any("frontier" in arm for arm in results["arms"].values()):
        return None
    figure, axes = _axes(len(results["judges"]))
    for ax, judge in zip(axes, results["judges"]):
        for name, arm in results["arms"].items():
            points = arm.get("frontier", {}).get(judge)
            if points:
                ax.plot(
                    [p["entropy"] for p in points],
                    [p["ppl_token"] for p in points],
                    label=f"{name}, {study_read.FRONTIER} steps",
                    **_line_style(name),
                )
        point_of = lambda rows, judge=judge: (study_read.mean(rows, key="entropy_nats"), study_read.mean(rows, judge))
        beside = {"textcoords": "offset points", "fontsize": 6}
        for name, by_steps in _others(results).items():
            for steps in sorted({str(study_read.FRONTIER), max(by_steps, key=int)} & by_steps.keys()):
                ax.scatter(*([x] for x in point_of(by_steps[steps])), s=14, marker="s", color=COLOURS[name], zorder=3)
                offset, side = ((-4, 4), "right") if name == "teacher" else ((4, -1), "left")
                ax.annotate(f"{name}, {int(steps):,} steps", point_of(by_steps[steps]), offset, ha=side, **beside)
        real = point_of(results["references"]["data"]["0"])
        ax.scatter(*([x] for x in real), s=18, marker="*", color="black")
        ax.annotate("held-out text", real, (4, -9), **beside)
        ax.set(yscale="log", xlabel="entropy, nats", title=_title(results, judge))
    axes[0].set_ylabel("perplexity (ppl_token)")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def compass(results):
    """One pick by the largest judge: final perplexity over blind's against the time of the pick, for each K and each compass."""
    rows = [row for row in results["compass"] if row["arrives"] is not None]
    if not rows:
        return None
    judge = list(results["judges"])[-1]
    figure, (left, right) = _axes(2, 3.6)
    for k in study_compass.CANDIDATES:
        _line(left, [r for r in rows if r["compass"] == "reference" and r["candidates"] == k], judge, f"K = {k}")
    for name in dict.fromkeys(row["compass"] for row in rows):
        _line(right, [r for r in rows if r["compass"] == name and r["candidates"] == study_compass.OTHER_CANDIDATES], judge, name)
    left.set(title="the config's compass", ylabel="final perplexity over blind's")
    right.set(title=f"every compass, K = {study_compass.OTHER_CANDIDATES}")
    for ax in (left, right):
        ax.axhline(1.0, color="black", lw=0.8)
        ax.set(xlabel="time at which the picked midpoint arrives")
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside: the lines fill the axes
    return figure


def _line(ax, rows, judge, label):
    rows = sorted(rows, key=lambda row: row["arrives"])
    if rows:
        ratio, low, high = zip(*(row["over_blind"][judge] for row in rows))
        errors = [[m - a for m, a in zip(ratio, low)], [b - m for m, b in zip(ratio, high)]]
        ax.errorbar([row["arrives"] for row in rows], ratio, yerr=errors, marker="o", ms=3, lw=1.1, elinewidth=0.6, label=label)


def ablations(results):
    """Each arm's perplexity and entropy at 8 steps over the reference's, by the largest judge."""
    arms = {name: arm["steps"].get("8") for name, arm in results["arms"].items() if arm["factor"] != "main"}
    if not arms.get("reference") or len(arms) < 3:
        return None
    judge = list(results["judges"])[-1]
    reference = {
        "perplexity": study_read.mean(arms["reference"], judge),
        "entropy": study_read.mean(arms["reference"], key="entropy_nats"),
    }
    names = [name for name, rows in arms.items() if name != "reference" and rows]
    figure, (left, right) = _axes(2, 3.8, 0.8 + 0.17 * len(names))
    left.barh(
        names, [math.log2(study_read.mean(arms[n], judge) / reference["perplexity"]) for n in names], color="#1f6f8b", height=0.6
    )
    left.set(xlabel="log2 of perplexity over the reference's", title=_title(results, judge))
    right.barh(
        names, [study_read.mean(arms[n], key="entropy_nats") - reference["entropy"] for n in names], color="#c0504d", height=0.6
    )
    right.set(xlabel="entropy less the reference's, nats")
    right.set_yticklabels([])
    for ax in (left, right):
        ax.invert_yaxis()
        ax.axvline(0.0, color="black", lw=0.8)
    return figure


DRAWN = {"steps": against_steps, "frontier": against_entropy, "compass": compass, "ablations": ablations}

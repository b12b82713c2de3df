"""Stage `report`: one JSON of everything measured, and a plain table of it."""

import json
import os
import pathlib
import platform
import subprocess

import jax
import rich.console
import rich.table

from tsdfm_jax import workspace
from tsdfm_jax.runtime import hosts, metrics as metrics_lib, stage as bookkeeping

COLUMNS = ("model", "steps", "seed", "samples", "entropy_nats", "distinct_2", "lexical", "tokens_per_second")


def run(config, workdir):
    """Leave `report/report.json` and print its table; the last line says whether shaping won."""
    hosts.first(lambda: write(config, workdir))


def write(config, workdir):
    """What one process does alone."""
    rows_file = workspace.require(config, workdir, "evaluate") / "rows.json"
    rows = json.loads(rows_file.read_text())
    figures = {name: figures_of(workdir, name) for name in ("tokenizer", "data", "judges", "teacher", "compass", "evaluate")}
    for r in range(config.rounds):
        figures[f"trajectories/round_{r}"] = figures_of(workdir, f"trajectories/round_{r}")
        figures |= {(d := workspace.student_directory(v, r)): figures_of(workdir, d) for v in workspace.VARIANTS}
    total = sum(f["seconds"] for f in figures.values())
    report = {
        "schema": 1,
        "commit": commit(),
        "config": config.to_dict(),
        "environment": environment(),
        "stages": {name: {**f, "share_of_time": f["seconds"] / total} for name, f in figures.items()},
        "compass": figures["compass"],
        "rows": rows,
    }
    where = pathlib.Path(workdir) / "report"
    where.mkdir(exist_ok=True)
    bookkeeping.atomic_write(where / "report.json", json.dumps(report, indent=1))
    console = rich.console.Console(width=None if os.isatty(1) else 140)
    console.print(stage_table(report["stages"]))
    console.print(table(rows))
    with metrics_lib.Metrics(workdir, "report") as metrics:
        metrics.line(verdict(rows))


def figures_of(workdir, directory):
    """What a finished stage left."""
    return bookkeeping.require(pathlib.Path(workdir) / directory, directory.split("/")[0])


def commit():
    """The commit that this code is at; a `+` marks changes since, None stands for no repository."""
    here = pathlib.Path(__file__).parent
    git = lambda *args: subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment():
    """What the figures were measured on."""
    import flax
    import jaxlib
    import optax

    device = jax.devices()[0]
    versions = {m.__name__: m.__version__ for m in (jax, jaxlib, flax, optax)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        **versions,
    }


def _plain(value):
    return (
        "-"
        if value is None
        else f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def table(rows):
    """A line for each set of texts, a perplexity for each judge."""
    judges = sorted({row["judge"]: row["judge_parameters"] for row in rows}.items(), key=lambda item: item[1])
    out = rich.table.Table(
        title=f"Generative perplexity (ppl_token) by judge, source {rows[0]['source']}, length {rows[0]['length']}, temperature {rows[0]['temperature']}"
    )
    for name in COLUMNS:
        out.add_column(name, justify="left" if name == "model" else "right")
    for _, size in judges:
        out.add_column(f"ppl {size / 1e6:.2g}M", justify="right")
    grouped = {}
    for row in rows:
        grouped.setdefault((row["model"], row["steps"], row["seed"]), {})[row["judge"]] = row
    for by_judge in grouped.values():
        row = next(iter(by_judge.values()))
        out.add_row(*(_plain(row[name]) for name in COLUMNS), *(f"{by_judge[name]['ppl_token']:.1f}" for name, _ in judges))
    return out


def stage_table(stages):
    """Time, its share and peak memory of every stage."""
    out = rich.table.Table(title="Stages")
    for name in ("stage", "seconds", "share", "tokens/s", "peak memory"):
        out.add_column(name, justify="left" if name == "stage" else "right")
    for name, f in stages.items():
        speed = f.get("tokens_per_second")
        out.add_row(
            name,
            f"{f['seconds']:.0f}",
            f"{f['share_of_time']:.0%}",
            f"{speed:,.0f}" if speed else "-",
            f"{f['peak_memory_bytes'] / 2**30:.1f} GiB",
        )
    return out


def verdict(rows, steps=8):
    """One sentence: is the shaped student below the blind one, and below the teacher at its most steps, under all judges?"""

    def mean(model, at, judge):
        found = [r["ppl_token"] for r in rows if (r["model"], r["steps"], r["judge"]) == (model, at, judge)]
        return sum(found) / len(found) if found else None

    most = max((r["steps"] for r in rows if r["model"] == "teacher"), default=None)
    names = {"the blind student": ("student_blind", steps), f"the teacher at {most} steps": ("teacher", most)}
    said = []
    for who, (model, at) in names.items():
        ratios = []
        for judge in sorted({r["judge"] for r in rows}):
            ours, theirs = mean("student_shaped", steps, judge), mean(model, at, judge)
            if ours is None or theirs is None:
                return f"no row of the shaped student or of {who} at {steps} steps: nothing to compare"
            ratios.append(ours / theirs)
        won = all(r < 1 for r in ratios)
        said.append(f"{'below' if won else 'NOT below'} {who} under all judges ({', '.join(f'×{r:.2f}' for r in ratios)})")
    return f"The shaped student at {steps} steps is " + " and ".join(said) + "."

"""Stage `report`: one JSON file of all measurements, a page that shows it, and plain tables."""

import json
import os
import pathlib

import rich.console
import rich.table

from tsdfm_jax.config import networks
from tsdfm_jax.distillation import traces
from tsdfm_jax.evaluation import elbo, summary
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.report import page
from tsdfm_jax.runtime import environment, hosts
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs, record, trained, tsdfm_artefacts

COLUMNS = ("model", "steps", "seed", "samples", "entropy_nats", "distinct_2", "lexical", "tokens_per_second")


def run(config, workdir, remake=False):
    """Write `report/report.json`, `report/traces.json` and the page `report/index.html`, and print the tables."""
    with jobs.job(config, workdir, "report", remake) as job:
        jobs.require(config, workdir, "evaluate")
        if job.finished is None:
            trace_data = traces.make(config, workdir) if config.report.traces and networks.variants(config) else None
            hosts.first(lambda: write(config, workdir, job.directory, trace_data))
            job.finish({})
        hosts.first(lambda: show(config, job.directory, job.metrics))


def write(config, workdir, directory, trace_data):
    """Write the files, in one process alone."""
    rows = json.loads((jobs.require(config, workdir, "evaluate") / "rows.json").read_text())
    report = build_report(config, workdir, rows)
    atomic.overwrite(directory / "report.json", atomic.json_text(report, indent=1))
    (directory / "traces.json").unlink(missing_ok=True)
    if trace_data is not None:
        atomic.overwrite(directory / "traces.json", atomic.json_text(trace_data, separators=(",", ":")))
    page.write(directory / "index.html", report, trace_data)


def show(config, directory, metrics):
    """Print the tables and the verdict."""
    report = json.loads((directory / "report.json").read_text())
    console = rich.console.Console(width=None if os.isatty(1) else 140)
    console.print(stage_table(report["stages"]))
    console.print(table(summary.table(config, report["rows"])))
    metrics.line(f"the page: {directory / 'index.html'}")
    metrics.line(report["verdict"])


def build_report(config, workdir, rows):
    """All measurements, as report.json holds them."""
    names = ("tokenizer", "data", "judges", "teacher", "autoregressive", "compass", "evaluate")
    names = [name for name in names if networks.needs(config, name)]
    for r in range(config.rounds if networks.needs(config, "trajectories") else 0):
        names += [f"trajectories/round_{r}", *(tsdfm_artefacts.student_directory(v, r) for v in networks.variants(config))]
    figures = {name: figures_of(workdir, name) for name in names}
    total, matched = sum(f["seconds"] for f in figures.values()), summary.matched(config, workdir, rows)
    return {
        "schema": summary.SCHEMA,
        "commit": environment.commit(),
        "command": record.command(workdir),
        "config": config.to_dict(),
        "environment": environment.describe(),
        "tokenizer": trained.tokenizer(config, workdir).content_hash,
        "formulas": figures["evaluate"]["formulas"],
        "verdict": summary.verdict(summary.table(config, rows), matched),
        "stages": {name: {**f, "share_of_time": f["seconds"] / total} for name, f in figures.items()},
        "compass": figures.get("compass"),
        "bounds": figures["evaluate"]["bounds"],
        "bounds_exact": {name: statement for name, statement in elbo.EXACT.items() if name in networks.models(config)},
        "shaping": summary.midpoints(config, workdir),
        "frontiers": summary.frontiers(config, workdir, rows),
        "matched": matched,
        "rows": rows,
    }


def figures_of(workdir, directory):
    """The figures that a finished stage stored."""
    return bookkeeping.require(pathlib.Path(workdir) / directory, directory.split("/")[0])


def _format_value(value):
    return (
        "-"
        if value is None
        else f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _perplexity(row):
    return "-" if row["ppl_token"] is None else f"{row['ppl_token']:.1f}"


def table(rows):
    """A line for each set of texts, with a perplexity for each judge."""
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
        out.add_row(*(_format_value(row[name]) for name in COLUMNS), *(_perplexity(by_judge[name]) for name, _ in judges))
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

"""Metrics of a sweep's finished runs, side by side: on the terminal, as CSV and as JSON."""

import csv
import io
import json
import re

from tsdfm_jax.experiments.sweep import runs as sweep_runs

STUDENTS = ("student_shaped", "student_blind")
WITH_HELDOUT = ("teacher", "autoregressive")  # models with held-out bits per byte from their own stages
SHOWN = {"shaped": "student_shaped", "blind": "student_blind", "teacher": "teacher"}
FURTHER = {"autoregressive": "autoregressive"}  # shown only if a run has it


def gather(runs):
    """One row a run: name, swept keys, status, and the metrics if it is finished; None for a missing value."""
    rows = [{"run": run.name, **run.overrides, "status": "finished" if run.finished() else "unfinished"} for run in runs]
    figures = [figures_of(run) if row["status"] == "finished" else {} for run, row in zip(runs, rows)]
    columns = dict.fromkeys(name for row in (*rows, *figures) for name in row)
    return [{name: {**row, **metrics}.get(name) for name in columns} for row, metrics in zip(rows, figures)]


def figures_of(run):
    """The main metrics of a finished run's report, {column: number}; means over the seeds of evaluate.seeds.

    `<model>_<steps>_ppl_<judge>` and `<model>_<steps>_entropy_nats`, without steps for real and unigram text; then the
    held-out bits per byte of teacher and autoregressive model, the seconds of the run's own stages, and of the shared ones.
    """
    from tsdfm_jax.storage import atomic  # late, as in `write`

    report = atomic.finite(json.loads((run.workdir / "report/report.json").read_text()))
    sums = {}
    rows = [row for row in report["rows"] if row["temperature"] == report["config"]["evaluate"]["temperature"]]
    for row in sorted(rows, key=lambda row: row["judge_parameters"]):
        prefix = f"{row['model']}_{row['steps']}" if row["steps"] else row["model"]
        sums.setdefault(f"{prefix}_ppl_{row['judge']}", []).append(row["ppl_token"])
        sums.setdefault(f"{prefix}_entropy_nats", []).append(row["entropy_nats"])
    known = {name: [value for value in values if value is not None] for name, values in sums.items()}
    figures = {name: sum(values) / len(values) if values else None for name, values in known.items()}
    order = sorted(figures, key=lambda name: (*_place(name), "entropy" in name))
    seconds = {"seconds": 0.0, "seconds_shared": 0.0}
    for name, stage in report["stages"].items():
        shared = (run.workdir / name.split("/")[0]).is_symlink()
        seconds["seconds_shared" if shared else "seconds"] += stage["seconds"]
    heldout = {
        f"{name}_heldout_bits_per_byte": report["stages"].get(name, {}).get("heldout_bits_per_byte") for name in WITH_HELDOUT
    }
    heldout = {name: bits for name, bits in heldout.items() if bits is not None or name.startswith("teacher")}
    return {name: figures[name] for name in order} | heldout | seconds


def _place(column):
    """(model, steps) as numbers to sort by: students first, then the teacher and the rest; each by its steps."""
    models = (*STUDENTS, *WITH_HELDOUT, "data", "unigram")
    rank = next((i for i, model in enumerate(models) if column.startswith(model)), len(models))
    return rank, int(match[1]) if (match := re.match(r"[a-z_]+_(\d+)_", column)) else 0


def write(file, runs, rows, directory):
    """Write sweep.csv and sweep.json into the sweep's directory, each atomically."""
    from tsdfm_jax.storage import atomic  # late: it imports JAX

    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    atomic.overwrite(directory / "sweep.csv", text.getvalue())
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    body = {"schema": 1, "config": file, "swept": keys, "runs": rows}
    atomic.overwrite(directory / "sweep.json", atomic.json_text(atomic.finite(body), indent=1))


def show(runs, rows, directory, console):
    """Print the table of the students, a block for each number of steps, with the runs in adjacent lines.

    The autoregressive model's number of steps has its own block if no student takes as many.
    """
    import rich.table

    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    # Show explicit names instead of overrides, which would be too wide.
    short = {"run": "run"} if any(run.named for run in runs) else sweep_runs.short_names(keys)
    finished = [row for row in rows if row["status"] == "finished"]
    columns = [name for row in finished for name in row if row[name] is not None]
    judges = list(dict.fromkeys(name.split("_ppl_")[1] for name in columns if "_ppl_" in name))
    shown = SHOWN | {label: model for label, model in FURTHER.items() if any(name.startswith(f"{model}_") for name in columns)}
    steps = sorted({_place(name)[1] for name in columns if name.startswith((*STUDENTS, *FURTHER)) and _place(name)[1]})
    out = rich.table.Table(
        title=f"{len(finished)} of {len(rows)} runs finished; everything is in {directory / 'sweep.csv'}",
        caption=f"perplexity (ppl_token) by {' / '.join(judges)}, in order of size; entropy in nats" if judges else None,
    )
    for name in (*short.values(), "at steps"):
        out.add_column(name, justify="right")
    for label in shown:
        out.add_column(f"{label} ppl", justify="right")
    for name in (*(f"{label} entropy" for label in shown), "bits/byte", "seconds"):
        out.add_column(name, justify="right")
    for number in steps:
        for row in finished:
            if "run" not in short or any(row.get(f"{model}_{number}_entropy_nats") is not None for model in shown.values()):
                out.add_row(*line(row, short, number, judges, shown))
        out.add_section()
    console.print(out)
    if len(finished) < len(rows):
        names = ", ".join(row["run"] for row in rows if row["status"] == "unfinished")
        console.print(f"unfinished: {names}", markup=False, highlight=False, soft_wrap=True)


def line(row, keys, steps, judges, shown=SHOWN):
    """One run at one number of steps, as text; a dash for a missing value."""
    figure = lambda name, form: "-" if row.get(name) is None else format(row[name], form)
    yield from ("-" if row[key] is None else str(row[key]) for key in keys)
    yield str(steps)
    for model in shown.values():
        perplexities = [figure(f"{model}_{steps}_ppl_{judge}", ".0f") for judge in judges]
        yield " / ".join(perplexities) if set(perplexities) != {"-"} else "-"
    yield from (figure(f"{model}_{steps}_entropy_nats", ".2f") for model in shown.values())
    yield next((bits for name in WITH_HELDOUT if (bits := figure(f"{name}_heldout_bits_per_byte", ".3f")) != "-"), "-")
    yield figure("seconds", ",.0f")

"""Compare the metrics of several runs: `python -m launch.compare runs/a runs/b --csv=compare.csv`.

Each argument is a run's work directory or a report.json. Reports that are not comparable, because length, judges, formulas,
sample count, temperature, tokenizer or corpus differ, are refused in one line; `--allow=FIELD` compares them anyway, and
prints the difference. Reports of NTM (images) that differ in their seeds alone become one table of means and spreads.

The exit code is 0, or 2 if the reports could not be compared.
"""

import csv
import functools
import io

from absl import flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.compare import images, reports
from tsdfm_jax.storage import atomic, places

parse, fail = functools.partial(command_line.parse, "compare"), functools.partial(command_line.fail, "compare")
_CSV = flags.DEFINE_string("csv", "", "Write the table to this file, one column a metric.")
_JSON = flags.DEFINE_string("json", "", "Write the table and the table at matched entropy to this file.")
_ALLOW = flags.DEFINE_list("allow", [], f"Fields that may differ, comma-separated: {', '.join(reports.REMEDIES)}.")

SHOWN = {
    "entropy_nats": "entropy",
    "distinct_2": "distinct-2",
    "repetition_4": "repeated-4",
    "lexical": "lexical",
    "tokens_per_second": "tokens/s",
    "heldout_bits_per_byte": "held-out bits/byte",
}
DISTANCES = {"mauve": "mauve", "frechet": "fréchet"}


def main(argv):
    """Read and check the reports, then show and write the tables; returns the exit code."""
    try:
        for name, file in {"csv": _CSV.value, "json": _JSON.value}.items():
            if file and not places.expanded(file).parent.is_dir():
                raise ValueError(f"--{name}={file}: there is no directory {places.expanded(file).parent}; make it first")
        if images.are_images(argv[1:]):
            return compare_images(argv[1:])
        runs = reports.read_all(argv[1:])
        differing = reports.check(runs, _ALLOW.value)
        rows, matched = reports.table(runs), reports.matched(runs)
        show(runs, rows, matched, differing)
        write(runs, rows, matched, differing)
    except (ValueError, OSError) as error:
        return fail(error)
    return 0


def compare_images(names):
    """The same for reports of NTM: runs of several seeds give means and spreads."""
    import rich.console

    if _CSV.value or _ALLOW.value:
        raise ValueError("--csv and --allow are for runs of TS-DFM, and these are of NTM: leave them out, and take --json")
    found = images.read_all(names)
    console = rich.console.Console()
    images.show(console if console.is_terminal else rich.console.Console(width=160), found)
    if _JSON.value:
        atomic.overwrite(places.expanded(_JSON.value), atomic.json_text(atomic.finite(images.body(names, found)), indent=1))
    return 0


def write(runs, rows, matched, differing):
    """Write the files that the flags ask for, each atomically."""
    if _CSV.value:
        text = io.StringIO()
        lines = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows)
        atomic.overwrite(places.expanded(_CSV.value), text.getvalue())
    if _JSON.value:
        sources = [{"run": run.name, "file": str(run.file), "commit": run.body.get("commit")} for run in runs]
        body = {"schema": 1, "reports": sources, "differing": differing, "rows": rows, "matched": matched}
        atomic.overwrite(places.expanded(_JSON.value), atomic.json_text(atomic.finite(body), indent=1))


def show(runs, rows, matched, differing):
    """Print both tables, plain if the output is not a terminal; above them, the differences that were allowed."""
    import rich.console

    console = rich.console.Console()
    console = console if console.is_terminal else rich.console.Console(width=240)
    if differing:
        line = f"Compared although different: {'; '.join(differing)}."
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(main_table(runs, rows))
    if matched:
        console.print(matched_table(runs, matched))


def main_table(runs, rows):
    """The main table: a block for each model and number of steps, a line for each run, a perplexity for each judge."""
    import rich.table

    judges = reports.judges(runs)
    has = lambda name: any(row.get(name) is not None for row in rows)
    distance_judge = next((judge for judge in reversed(judges) if any(has(f"{name}_{judge}") for name in DISTANCES)), None)
    columns = SHOWN | {f"{name}_{distance_judge}": shown for name, shown in DISTANCES.items()}
    columns = {name: shown for name, shown in columns.items() if has(name)}
    caption = f"ppl: ppl_token, × over that of {runs[0].name}; ±: sample standard deviation over seeds"
    out = rich.table.Table(title=title(rows), caption=caption + (f"; distances by {distance_judge}" if distance_judge else ""))
    for name in ("run", "model", "steps", "seeds", *columns.values()):
        out.add_column(name, justify="left" if name in ("run", "model") else "right")
    for judge, size in judges.items():
        out.add_column(f"ppl {judge}, {size / 1e6:.2g}M", justify="right")
    for i, row in enumerate(rows):
        cells = [figure(row, name) for name in columns]
        cells += [figure(row, f"ppl_token_{judge}") + times(row.get(f"ppl_token_{judge}_ratio")) for judge in judges]
        last = i + 1 == len(rows) or (rows[i + 1]["model"], rows[i + 1]["steps"]) != (row["model"], row["steps"])
        out.add_row(row["run"], row["model"], str(row["steps"] or "-"), str(row["seeds"]), *cells, end_section=last)
    return out


def title(rows):
    """The table's title: samples, length, temperature and top-p, with all values where the rows differ."""
    shared = lambda name: " or ".join(dict.fromkeys(str(row[name]) for row in rows if row[name] is not None))
    texts = f"{shared('samples')} texts of {shared('length')} tokens a seed"
    return f"{texts}, temperature {shared('temperature')}, top-p {shared('top_p')}"


def matched_table(runs, matched):
    """The table at matched entropy: a block for each judge, model, number of steps and entropy, a line for each run."""
    import rich.table

    caption = f"95 % bootstrap intervals; × over that of {runs[0].name}, where the entropy is the same"
    out = rich.table.Table(title="Perplexity (ppl_token) at matched entropy", caption=caption)
    for name in ("run", "model", "steps", "judge", "entropy of", "entropy", "ppl", "interval"):
        out.add_column(name, justify="left" if name in ("run", "model", "judge", "entropy of") else "right")
    for row in matched:
        interval = "-" if row["low"] is None else f"{plain(row['low'])} to {plain(row['high'])}"
        ppl = plain(row["ppl_token"]) + times(row["ratio"])
        entropy = "-" if row["entropy_nats"] is None else f"{row['entropy_nats']:.3f}"
        steps, last = str(row["steps"] or "-"), row["run"] == runs[-1].name
        cells = (row["judge"], row["entropy_of"], entropy, ppl, interval)
        out.add_row(row["run"], row["model"], steps, *cells, end_section=last)
    return out


def figure(row, name):
    """A mean and its standard deviation over seeds, as text; a dash where there is no value."""
    spread = row.get(f"{name}_std")
    return plain(row.get(name)) + (f" ± {plain(spread)}" if spread is not None else "")


def plain(value):
    """A number with three digits, or as a whole number from 1,000 on; a dash for None."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def times(ratio):
    return "" if ratio is None else f" ×{ratio:.2f}"

"""Reports of several runs: read them, refuse those that are not comparable, and gather their rows into tables."""

import dataclasses
import difflib
import json
import math
import pathlib
import statistics

from tsdfm_jax.storage import atomic, places

SCHEMA = 2
KEYS = ("config", "tokenizer", "formulas", "rows")
PER_TEXT = (
    "entropy_nats",
    "entropy_bits",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "repetition_4",
    "lexical",
    "tokens_per_second",
)
PER_JUDGE = ("ppl_token", "ppl_sample", "bits_per_byte", "mauve", "mauve_spread", "frechet")
OF_ROW = ("length", "samples", "top_p")
OF_JUDGE = ("judge_hash", "judge_parameters", "judge_tokenizer", "judge_bos", "judge_context")
ROW_KEYS = {"model", "steps", "seed", "judge", "temperature", "ppl_token", *OF_ROW, *OF_JUDGE}
MATCHED_AT = ("judge", "entropy_of", "model", "steps")
MATCHED_KEYS = {*MATCHED_AT, "entropy_nats", "ppl_token", "low", "high"}

AGAIN = "delete the run's evaluate/ and make both again with --stage=evaluate,report"
_JUDGES = "judge both with the same ones"
REMEDIES = {  # fields that must be equal, in the order of the checks, and the remedy for each
    "length": "evaluate both at one data.length",
    "judges": _JUDGES,
    "judge_hash": "local judges are trained by each run: judge one run's samples in the other with --config.evaluate.text=FILE, "
    "or both with one pretrained judge",
    "judge_parameters": _JUDGES,
    "judge_tokenizer": _JUDGES,
    "judge_bos": _JUDGES,
    "judge_context": _JUDGES,
    "formulas": "make both reports with the same code",
    "samples": "evaluate both with one evaluate.samples",
    "temperature": "evaluate both with one evaluate.temperature",
    "top_p": "evaluate both with one evaluate.top_p",
    "tokenizer": "give both runs one tokenizer.path",
    "corpus": "give both runs the same data",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A report and its file; `rows` are the rows at the report's own temperature."""

    name: str
    file: pathlib.Path
    body: dict

    @property
    def temperature(self):
        return self.body["config"]["evaluate"]["temperature"]

    @property
    def rows(self):
        # Text from elsewhere has no temperature.
        return [row for row in self.body["rows"] if row["temperature"] in (None, self.temperature)]


def read_all(arguments):
    """Read the reports of files or work directories, each under a unique name. ValueError for an invalid report."""
    if len(arguments) < 2:
        raise ValueError(f"{len(arguments)} reports given: give two at least, such as python -m launch.compare runs/a runs/b")
    files = [_file(places.expanded(argument)) for argument in arguments]
    names = [
        next((part for part in reversed(file.absolute().with_suffix("").parts) if part != "report"), "report") for file in files
    ]
    names = [str(file) if names.count(name) > 1 else name for file, name in zip(files, names)]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{name} is given twice: give the reports of different runs")
    return [Run(name=name, file=file, body=read(file)) for name, file in zip(names, files)]


def _file(path):
    candidates = (path / "report/report.json", path / "report.json")
    return next((file for file in candidates if file.exists()), candidates[0]) if path.is_dir() else path


def read(file):
    """Read a report and check its keys; ValueError if it is damaged, has another schema or is no report."""
    try:
        body = atomic.finite(json.loads(file.read_text()))  # older versions wrote NaN
    except FileNotFoundError as error:
        raise ValueError(f"no report {file}: give a report.json, or a run directory whose stage `report` is finished") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): it is damaged, make it again with --stage=report") from error
    if not isinstance(body, dict) or not isinstance(body.get("rows"), list) or "schema" not in body:
        raise ValueError(f"{file} is no report: it has no schema and rows; give the report.json of the stage `report`")
    if body["schema"] != SCHEMA:
        raise ValueError(f"{file} has schema {body['schema']}, not {SCHEMA}: {AGAIN}")
    if lacking := [key for key in KEYS if key not in body]:
        raise ValueError(f"{file} is no report: it has no {lacking[0]}; make it again with --stage=report")
    try:
        temperature = body["config"]["evaluate"]["temperature"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no report: its config has no evaluate.temperature; make it again with --stage=report"
        ) from error
    _check_rows(file, body, "rows", ROW_KEYS)
    _check_rows(file, body, "matched", MATCHED_KEYS)
    if not any(row["temperature"] in (None, temperature) for row in body["rows"]):
        raise ValueError(f"{file} has no row at its evaluate.temperature {temperature}: there is nothing to compare")
    return body


def _check_rows(file, body, name, keys):
    """Check that every row has its keys and that no row occurs twice."""
    seen = set()
    for number, row in enumerate(body.get(name, [])):
        if lacking := sorted(keys - set(row if isinstance(row, dict) else ())):
            raise ValueError(f"{file}: number {number} of its {name} has no {lacking[0]}: {AGAIN}")
        identity = tuple(row.get(key) for key in (*MATCHED_AT, "seed", "temperature"))
        if identity in seen:
            label = ", ".join(str(part) for part in identity if part is not None)
            raise ValueError(f"{file}: number {number} of its {name} ({label}) stands twice: {AGAIN}")
        seen.add(identity)


def facts(run):
    """The facts that two runs must share: {field: {model or judge: value}}."""
    by_field = {field: {} for field in REMEDIES}
    for row in run.rows:
        label = f"{row['model']} at {row['steps']} steps" if row["steps"] else row["model"]
        for field in OF_ROW:
            by_field[field].setdefault(label, set()).add(str(row[field]))
        for field in OF_JUDGE:
            by_field[field].setdefault(row["judge"], set()).add(str(row[field]))
    by_field = {field: {name: ", ".join(sorted(values)) for name, values in parts.items()} for field, parts in by_field.items()}
    by_field["judges"] = {"": ", ".join(sorted(by_field["judge_hash"]))}
    by_field["temperature"] = {"": str(run.temperature)}
    by_field["formulas"] = run.body["formulas"]
    by_field["tokenizer"] = {"": str(run.body["tokenizer"])}
    if heldout := run.body.get("stages", {}).get("data", {}).get("splits", {}).get("heldout"):
        by_field["corpus"] = {"": f"{heldout.get('bytes')} held-out bytes of {heldout.get('documents')} documents"}
    return by_field


def differences(first, other):
    """The differences between two runs, {field: [line, …]}; each line names the model or judge and both values."""
    ours, theirs, differing = facts(first), facts(other), {}
    for field in REMEDIES:
        pairs = {name: (ours[field][name], theirs[field][name]) for name in ours[field] if name in theirs[field]}
        if field in OF_ROW and not pairs:  # no row in common: compare the values of all rows
            pairs["all rows"] = tuple(", ".join(sorted(set(side[field].values()))) for side in (ours, theirs))
        for name, (a, b) in pairs.items():
            if a != b:
                line = f"{field}{f' of {name}' if name else ''} ({a} in {first.name}, {b} in {other.name})"
                differing.setdefault(field, []).append(line)
    return differing


def check(runs, allow=()):
    """The lines of the allowed differences. ValueError for the first other difference, and for an unknown field."""
    for field in allow:
        if field not in REMEDIES:
            near = difflib.get_close_matches(field, REMEDIES, 1)
            raise ValueError(
                f"--allow={field}: no such field{f', did you mean {near[0]}?' if near else ''}; there are {', '.join(REMEDIES)}"
            )
    allowed = []
    for other in runs[1:]:
        differing = differences(runs[0], other)
        refused = [field for field in differing if field not in allow]
        if refused:
            further = f", and so do {', '.join(refused[1:])}" if refused[1:] else ""
            remedy = f"{REMEDIES[refused[0]]}; --allow={','.join([*allow, *refused])} compares all the same"
            raise ValueError(f"not comparable: {differing[refused[0]][0]} differs{further}: {remedy}")
        allowed += [lines[0] + (f" and {len(lines) - 1} more" if lines[1:] else "") for lines in differing.values()]
    return allowed


def judges(runs):
    """Number of parameters of every judge, {name: number}, smallest first."""
    sizes = {row["judge"]: row["judge_parameters"] for run in runs for row in run.rows}
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def table(runs):
    """One row for each model, number of steps and run: means over seeds, `_std` for several seeds, `_ratio` to the first run.

    Metrics of a judge end in its name: ppl_token_<judge>. Rows of the same model and steps are adjacent; missing rows are left out.
    """
    grouped = [{} for _ in runs]
    for groups, run in zip(grouped, runs):
        for row in run.rows:
            groups.setdefault((row["model"], row["steps"]), []).append(row)
    out = []
    for key in dict.fromkeys(key for groups in grouped for key in groups):
        lines = [_averaged(run, key, groups[key]) for run, groups in zip(runs, grouped) if key in groups]
        first = lines[0] if key in grouped[0] else {}
        for line in lines:
            for judge in judges(runs):
                pair = line.get(f"ppl_token_{judge}"), first.get(f"ppl_token_{judge}")
                line[f"ppl_token_{judge}_ratio"] = pair[0] / pair[1] if all(pair) and line is not first else None
        out += lines
    return out


def _averaged(run, key, rows):
    """Average a run's rows at one model and number of steps into one row of the table."""
    seeds = {row["seed"]: row for row in reversed(rows)}  # text metrics are the same for every judge: use the first row
    out = {"run": run.name, "model": key[0], "steps": key[1], "seeds": len(seeds), "temperature": rows[0]["temperature"]}
    out |= {field: rows[0][field] for field in OF_ROW}
    out["heldout_bits_per_byte"] = run.body.get("bounds", {}).get(key[0])
    figures = {name: [row.get(name) for row in seeds.values()] for name in PER_TEXT}
    for judge in dict.fromkeys(row["judge"] for row in rows):
        figures |= {f"{name}_{judge}": [row.get(name) for row in rows if row["judge"] == judge] for name in PER_JUDGE}
    for name, values in figures.items():
        values = [value for value in values if value is not None]
        out[name] = statistics.fmean(values) if values else None
        out[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return out


def matched(runs):
    """Rows of all reports at matched entropy, runs adjacent; `ratio` to the first run where the entropy is the same."""
    by_key = [{tuple(row[key] for key in MATCHED_AT): row for row in run.body.get("matched", [])} for run in runs]
    out = []
    for key in dict.fromkeys(key for rows in by_key for key in rows):
        first = by_key[0].get(key)
        for run, rows in zip(runs, by_key):
            if row := rows.get(key):
                pair = first and row is not first and first["ppl_token"] and row["ppl_token"]
                entropies = first and (first["entropy_nats"], row["entropy_nats"])
                same_entropy = pair and None not in entropies and math.isclose(*entropies, rel_tol=1e-9)
                out.append({"run": run.name, **row, "ratio": row["ppl_token"] / first["ppl_token"] if same_entropy else None})
    return out

"""Reports of NTM runs as one table: runs that differ in their seeds alone give means and spreads."""

import json
import statistics

from tsdfm_jax.report import image_page
from tsdfm_jax.storage import places

FIELDS = ("accuracy", "frechet", "seconds_per_image")
BITS = ("trajectory_bits", "bound_bits")
FREE = ("seed", "evaluate", "report", "sample", "mesh", "log_every", "save_every", "evaluate_every", "models", "ntm.steps")


def file_of(name):
    """The report.json of a work directory, or the file itself."""
    path = places.expanded(name)
    return path / "report" / "report.json" if path.is_dir() else path


def are_images(names):
    """Whether the first of these arguments is a report of NTM."""
    try:
        return json.loads(file_of(names[0]).read_text()).get("schema") == image_page.SCHEMA
    except (OSError, ValueError, IndexError, AttributeError):
        return False


def read_all(names):
    """The reports, in order. Raises ValueError, in one line, for one that is no report of NTM or is of something else."""
    found = []
    for name in names:
        file = file_of(name)
        try:
            body = json.loads(file.read_text())
        except OSError:
            raise ValueError(f"{file} is not there: give work directories whose stage report is done") from None
        except ValueError:
            raise ValueError(f"{file} is not JSON: run --stage=report there again") from None
        if not isinstance(body, dict) or body.get("schema") != image_page.SCHEMA:
            raise ValueError(f"{file} is no report of NTM, as {names[0]} is: compare reports of one method")
        found.append(body)
    for name, body in zip(names, found):
        if key := differing(found[0], body):
            raise ValueError(f"{name} differs from {names[0]} in {key}: only seeds, steps and what is measured may differ")
    return found


def differing(a, b):
    """The first config key, or "data", in which two reports are of something else; "" if they are not."""
    if a["data"] != b["data"]:
        return "data"
    if a["config"]["evaluate"]["classifier"] != b["config"]["evaluate"]["classifier"]:
        return "evaluate.classifier"
    values = [dict(leaves(body["config"])) for body in (a, b)]
    names = dict.fromkeys([*values[0], *values[1]])
    free = lambda name: any(f"{name}.".startswith(f"{one}.") for one in FREE)
    return next((name for name in names if not free(name) and values[0].get(name) != values[1].get(name)), "")


def leaves(section, prefix=""):
    """Yield every (dotted key, value) of a dict of dicts."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def table(reports):
    """A row for each kind of image, and one for each likelihood: means and sample standard deviations over all runs and seeds."""
    images = [(("model", "steps", "guidance", "ending"), FIELDS, row) for body in reports for row in body["rows"]]
    bits = [(("model", "steps", "parameters"), BITS, row) for body in reports for row in body["likelihoods"]]
    return grouped(images), grouped(bits)


def grouped(entries):
    """Rows with the same values of some keys as one row with a mean and spread of each field."""
    groups = {}
    for keys, fields, row in entries:
        groups.setdefault((keys, fields, tuple(row[key] for key in keys)), []).append(row)
    return [
        dict(zip(keys, values)) | {"runs": len(rows)} | {name: spread([row[name] for row in rows]) for name in fields}
        for (keys, fields, values), rows in groups.items()
    ]


def spread(values):
    """{"mean", "spread"} of numbers: the sample standard deviation, None for one number; None if any number is missing."""
    if any(value is None for value in values):
        return None
    return {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if len(values) > 1 else None}


def real(reports):
    """Figures of real images: the mean over runs of the classifier's accuracy, and of the distance between halves."""
    halves = [body["real"]["frechet_halves"]["mean"] for body in reports]
    return {"accuracy": spread([body["real"]["accuracy"] for body in reports]), "frechet_halves": spread(halves)}


def show(console, reports):
    """Print both tables."""
    import rich.table

    images, bits = table(reports)
    say = lambda value, scale=1, digits=3: (
        "-"
        if value is None
        else f"{value['mean'] * scale:.{digits}f}"
        + (f" ± {value['spread'] * scale:.{digits}f}" if value["spread"] is not None else "")
    )
    out = rich.table.Table(title=f"Images of {len(reports)} runs; real halves: Fréchet {say(real(reports)['frechet_halves'])}")
    for name in ("model", "steps", "guidance", "ending", "runs", "accuracy %", "Fréchet", "ms an image"):
        out.add_column(name, justify="left" if name in ("model", "ending") else "right")
    for row in sorted(images, key=lambda row: (row["steps"], row["model"], row["guidance"])):
        shown = say(row["accuracy"], 100, 1), say(row["frechet"]), say(row["seconds_per_image"], 1000, 2)
        out.add_row(row["model"], str(row["steps"]), f"{row['guidance']:g}", row["ending"] or "-", str(row["runs"]), *shown)
    console.print(out)
    out = rich.table.Table(title="Held-out likelihood, bits")
    for name in ("model", "steps", "parameters", "runs", "a number of the trajectory (exact)", "a dimension of x_t0 (bound)"):
        out.add_column(name, justify="left" if name == "model" else "right")
    for row in sorted(bits, key=lambda row: (row["steps"], row["model"])):
        numbers = say(row["trajectory_bits"], 1, 4), say(row["bound_bits"], 1, 4)
        out.add_row(row["model"], str(row["steps"]), f"{row['parameters']:,}", str(row["runs"]), *numbers)
    console.print(out)


def body(names, reports):
    """All of it, as plain JSON."""
    images, bits = table(reports)
    about = ("commit", "command", "environment")
    sources = [
        {"run": str(name), "seed": one["config"]["seed"], **{key: one[key] for key in about}} for name, one in zip(names, reports)
    ]
    found = {"schema": image_page.SCHEMA, "reports": sources, "data": reports[0]["data"], "config": reports[0]["config"]}
    return found | {"real": real(reports), "images": images, "likelihoods": bits}

"""Gather the rows of an NTM report into lines of the table, with means over seeds. Time runs from 0 = data to 1 = noise."""

import dataclasses
from collections.abc import Mapping

from tsdfm_jax.report import cells

FIELDS = ("accuracy", "frechet", "seconds_per_image")
ORDER = ("real", "flow_matching", "start", "ntm_identity", "ntm")
ENDINGS = {  # how a sample is finished → name on the page, what it means
    "noisy": ("with noise", "the last step adds its noise, as the model's distribution says"),
    "noise_free": ("noise-free", "the last step gives its mean, without noise"),
    "score": ("score", "score denoising: a step along the gradient of the trajectory's likelihood follows the last step"),
    "learned": ("denoiser", "the learned denoiser replaces the transporter's inversion and score denoising"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
      model: its name; `real` for held-out images.
      steps: from noise to data; 0 for real images.
      guidance: weight of guidance; 0 is none.
      ending: a key of ENDINGS, or "" for models without a choice.
      seeds, samples: number of seeds, and of images a seed (0 if unknown).
      fields: {name: cells.Mean} for the FIELDS that are known.
    """

    model: str
    steps: int
    guidance: float
    ending: str
    seeds: int
    samples: int
    fields: Mapping[str, cells.Mean]


def gather(report):
    """The table's lines in order: real images first, then each model by steps, guidance and ending."""
    groups = {}
    for row in report.get("rows") or []:
        key = (row["model"], row.get("steps") or 0, row.get("guidance") or 0.0, row.get("ending") or "")
        groups.setdefault(key, []).append(row)
    lines = {key: line(key, rows) for key, rows in groups.items() if key[0] != "real"}
    rank, endings = {model: i for i, model in enumerate(ORDER)}, list(ENDINGS)
    at = lambda ending: endings.index(ending) if ending in endings else len(endings)
    ordered = sorted(lines, key=lambda k: (rank.get(k[0], len(rank)), k[0], k[1], k[2], at(k[3]), k[3]))
    real = real_line(report, [row for key, rows in groups.items() if key[0] == "real" for row in rows])
    return ([real] if real.fields else []) + [lines[key] for key in ordered]


def line(key, rows):
    """One line from its rows, one for each seed."""
    model, steps, guidance, ending = key
    fields = {name: found for name in FIELDS if (found := cells.mean(row.get(name) for row in rows))}
    shape = {"seeds": len({row.get("seed") for row in rows}), "samples": rows[0].get("samples") or 0}
    return Line(model=model, steps=steps, guidance=guidance, ending=ending, fields=fields, **shape)


def real_line(report, rows):
    """The line of real images, from `real` or from rows; its Fréchet distance is between two halves of real images."""
    fields = {name: found for name in FIELDS if (found := cells.mean(row.get(name) for row in rows))}
    real = report.get("real") or {}
    if "accuracy" not in fields and cells.number(real.get("accuracy")):
        fields["accuracy"] = cells.mean([real["accuracy"]])
    halves = real.get("frechet_halves") or {}
    if cells.number(halves.get("mean")):
        spread = halves["spread"] if cells.number(halves.get("spread")) else None
        fields["frechet"] = cells.Mean(halves["mean"], spread, halves["mean"], halves["mean"])
    samples = next((row["samples"] for row in rows if row.get("samples")), 0)
    return Line(model="real", steps=0, guidance=0.0, ending="", seeds=1, samples=samples, fields=fields)


def likelihoods(report):
    """The rows of likelihoods that have a number, by model and steps."""
    rank = {model: i for i, model in enumerate(ORDER)}
    rows = [r for r in report.get("likelihoods") or [] if any(cells.number(r.get(k)) for k in ("trajectory_bits", "bound_bits"))]
    return sorted(rows, key=lambda r: (r.get("steps") or 0, rank.get(r["model"], len(rank)), r["model"]))


def class_name(report, label):
    """A class as the page names it; None for no class."""
    if label is None or isinstance(label, str):
        return label
    names = (report.get("data") or {}).get("class_names") or []
    if int(label) < 0:
        return None
    return str(names[int(label)]) if int(label) < len(names) else str(int(label))


def size(parameters):
    """A number of parameters as text, such as 0.35M."""
    if not cells.number(parameters):
        return "–"
    unit, letter = (1e9, "B") if parameters >= 1e9 else (1e6, "M")
    return f"{parameters / unit:.{0 if parameters >= 100 * unit else 2}f}{letter}"

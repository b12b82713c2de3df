"""Gather a report's rows into table lines: one for each (model, steps), with means over seeds and a perplexity for each judge."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

FIELDS = (
    "entropy_nats",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "repetition_4",
    "lexical",
    "mauve",
    "mauve_spread",
    "frechet",
    "tokens_per_second",
)
PLAIN = {"data": "real held-out text", "unigram": "unigram draws", "teacher": "teacher"}
PLAIN |= {"student_shaped": "shaped student", "student_blind": "blind student", "autoregressive": "autoregressive"}
PLAIN |= {"real": "real images", "flow_matching": "flow matching", "start": "untrained start", "denoiser": "denoiser"}
PLAIN |= {"ntm": "NTM", "ntm_identity": "NTM, no transporter"}
ORDER = ("data", "unigram", "text", "teacher", "student_shaped", "student_blind", "autoregressive")


class Mean(NamedTuple):
    """A mean over seeds with standard deviation (None for one seed), minimum and maximum."""

    value: float
    spread: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the table.

    Attributes:
      model, steps: model and number of steps, 0 for text that no network here generated.
      seeds, samples, length: number of seeds, texts a seed, and tokens a text.
      fields: {name: Mean} for the FIELDS that its rows have.
      ppl: {judge: Mean of `ppl_token`}.
    """

    model: str
    steps: int
    seeds: int
    samples: int
    length: int
    fields: Mapping[str, Mean]
    ppl: Mapping[str, Mean]


def label(model):
    """Name of a model on the page."""
    return PLAIN.get(model, model.removeprefix("text:"))


def number(value):
    """Whether a value of a report is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def mean(values):
    """Mean of the finite numbers among the values, or None if there are none."""
    numbers = [v for v in values if number(v)]
    if not numbers:
        return None
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Mean(statistics.fmean(numbers), spread, min(numbers), max(numbers))


def judges(report):
    """{judge: its first row}, smallest judge first."""
    first = {}
    for row in report.get("rows") or []:
        first.setdefault(row["judge"], row)
    return dict(sorted(first.items(), key=lambda item: (item[1].get("judge_parameters") or 0, item[0])))


def judge_label(name, row):
    """A judge's label with its size, as `judge of 0.11M`, or its name if the size is unknown."""
    size = row.get("judge_parameters")
    if not number(size):
        return name
    unit, letter = (1e9, "B") if size >= 1e9 else (1e6, "M")
    return f"judge of {size / unit:.{0 if size >= 10 * unit else 2}f}{letter}"


def gather(report):
    """The table's lines in order, from the rows at the config's temperature and those without a temperature."""
    temperature = ((report.get("config") or {}).get("evaluate") or {}).get("temperature")
    groups = {}
    for row in report.get("rows") or []:
        if temperature is None or row.get("temperature") in (None, temperature):
            groups.setdefault((row["model"], row["steps"]), []).append(row)
    rank = {model: i for i, model in enumerate(ORDER)}
    ordered = sorted(groups, key=lambda key: (rank.get(key[0].split(":")[0], len(rank)), key[0], key[1]))
    return [cell(model, steps, groups[model, steps]) for model, steps in ordered]


def cell(model, steps, rows):
    """One line from its rows, one row for each (seed, judge)."""
    by_seed = {row["seed"]: row for row in rows}
    fields = {name: found for name in FIELDS if (found := mean(row.get(name) for row in by_seed.values()))}
    names = dict.fromkeys(row["judge"] for row in rows)
    ppl = {name: found for name in names if (found := mean(row["ppl_token"] for row in rows if row["judge"] == name))}
    shape = {"seeds": len(by_seed), "samples": rows[0]["samples"], "length": rows[0]["length"]}
    return Cell(model=model, steps=steps, fields=fields, ppl=ppl, **shape)

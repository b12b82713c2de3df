"""The rows of a report gathered into lines: one a (model, steps), means over seeds, a perplexity for each judge."""

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
ORDER = ("data", "unigram", "text", "teacher", "student_shaped", "student_blind", "autoregressive")


class Mean(NamedTuple):
    """A mean over seeds with their standard deviation (None for one seed), the least and the most."""

    value: float
    spread: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the table.

    Attributes:
      model, steps: what it is of; steps are 0 for text that no network here wrote.
      seeds, samples, length: how many seeds, how many texts in each, of how many tokens.
      fields: name → Mean, of those FIELDS that its rows have.
      ppl: judge → Mean of `ppl_token`.
    """

    model: str
    steps: int
    seeds: int
    samples: int
    length: int
    fields: Mapping[str, Mean]
    ppl: Mapping[str, Mean]


def label(model):
    """What a model is called on the page."""
    return PLAIN.get(model, model.removeprefix("text:"))


def number(value):
    """Whether a value of a report is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def mean(values):
    """Mean of the finite numbers among the values, or None where there are none."""
    found = [v for v in values if number(v)]
    if not found:
        return None
    spread = statistics.stdev(found) if len(found) > 1 else None
    return Mean(statistics.fmean(found), spread, min(found), max(found))


def judges(report):
    """Names of the judges, smallest first, each with the first row that it judged."""
    first = {}
    for row in report.get("rows") or []:
        first.setdefault(row["judge"], row)
    return dict(sorted(first.items(), key=lambda item: (item[1].get("judge_parameters") or 0, item[0])))


def judge_label(name, row):
    """A judge by its size, as `judge of 0.11M`, or by its name where the size is not told."""
    size = row.get("judge_parameters")
    if not number(size):
        return name
    unit, letter = (1e9, "B") if size >= 1e9 else (1e6, "M")
    return f"judge of {size / unit:.{0 if size >= 10 * unit else 2}f}{letter}"


def gather(report):
    """The lines of the table, in the order they are shown: those rows that were made at the config's temperature."""
    wanted = ((report.get("config") or {}).get("evaluate") or {}).get("temperature")
    groups = {}
    for row in report.get("rows") or []:
        if wanted is None or row.get("temperature") in (None, wanted):
            groups.setdefault((row["model"], row["steps"]), []).append(row)
    place = {model: i for i, model in enumerate(ORDER)}
    ordered = sorted(groups, key=lambda key: (place.get(key[0].split(":")[0], len(place)), key[0], key[1]))
    return [cell(model, steps, groups[model, steps]) for model, steps in ordered]


def cell(model, steps, rows):
    """One line from its rows, one a (seed, judge)."""
    by_seed = {row["seed"]: row for row in rows}
    fields = {name: found for name in FIELDS if (found := mean(row.get(name) for row in by_seed.values()))}
    names = dict.fromkeys(row["judge"] for row in rows)
    ppl = {name: found for name in names if (found := mean(row["ppl_token"] for row in rows if row["judge"] == name))}
    shape = {"seeds": len(by_seed), "samples": rows[0]["samples"], "length": rows[0]["length"]}
    return Cell(model=model, steps=steps, fields=fields, ppl=ppl, **shape)

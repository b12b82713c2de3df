"""Read the results of a study's runs into one tree of numbers."""

import json

from tsdfm_jax.evaluation import summary, text_metrics
from tsdfm_jax.experiments.study import (
    arms as study_arms,
    compass as study_compass,
    cost as study_cost,
    jumps as study_jumps,
    runs as study_runs,
    targets as study_targets,
)
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.report import cells
from tsdfm_jax.runtime import environment

SCHEMA = 1
JUDGES_AGREE = 1e-3  # largest relative difference between two studies' perplexities of the same text
FRONTIER = 8  # steps of the frontiers in the figures
BAR = {"perplexity": 0.68, "entropy": 0.97}
KEPT = (*cells.FIELDS, "samples", "seed")
STAGES = {"compass": "compass", "trajectories": "trajectories/round_{}", "student": "student/shaped/round_{}"}


def gathered(study, before=None):
    """The whole study: its config and environment, and the results of each source with a finished base.

    `before`, if given, is an earlier result: an arm or a part that is missing in this work directory, or has fewer seeds here, is
    copied from it if config and teacher are the same and the judges agree on held-out text. So a study can run in several places.
    """
    earlier = before["sources"] if before and before["config"] == json.loads(study.config.to_json()) else {}
    done = [source for source in study_arms.SOURCES if study.base(source).finished()]
    sources = {source: _source(study, source, earlier.get(source, {})) for source in done}
    if not sources:
        raise ValueError(f"{study.root} has no finished base: run --part=base first")
    about = {"schema": SCHEMA, "config_file": study.file, "config": study.config.to_dict(), "given": study.given}
    return about | {"commit": environment.commit(), "environment": environment.describe(), "bar": BAR, "sources": sources}


def _source(study, source, before):
    base = study.base(source)
    rows = _rows(base)
    judges = {row["judge"]: row["judge_parameters"] for row in sorted(rows, key=lambda row: row["judge_parameters"])}
    found = {"judges": judges, "judge_hashes": summary.judges(rows), "teacher": _teacher(base), "references": {}, "arms": {}}
    for name in ("data", "unigram", "teacher"):
        found["references"][name] = _by_steps(base, rows, name)
    before = before if before and _comparable(before, found) else {"arms": {}, "references": {}}
    found["references"] |= _autoregressive(study, found["judge_hashes"], before["references"])
    for arm in [*study_arms.main_arms(study.of(source)), *study_arms.ablations(study.of(source))]:
        seeds = study.seeds if arm.factor == "main" else study.seeds[:1]
        runs = [run for run in (study.run(arm, source, seed) for seed in seeds) if run.finished()]
        kept = before["arms"].get(arm.name)
        if kept and kept["overrides"] == json.loads(json.dumps(arm.overrides)) and len(kept["runs"]) > len(runs):
            found["arms"][arm.name] = kept
        elif runs:
            found["arms"][arm.name] = _arm(arm, runs)
    for name, arm in found["arms"].items():
        if arm["factor"] == "main" and name != "blind" and arm is not before["arms"].get(name):
            arm["held"] = held(study, source, found, name)
    left = lambda name: json.loads(file.read_text()) if (file := study.root / source / name).exists() else None
    found["compass"], found["cost"] = _compass(left(study_compass.FILE) or {}), left(study_cost.FILE)
    found["choices"], found["jumps"] = left(study_targets.CHOICES) or {}, left(study_jumps.FILE) or {}
    return found | {part: found[part] or before.get(part, found[part]) for part in ("compass", "cost", "choices", "jumps")}


def _autoregressive(study, hashes, before):
    """The autoregressive model's rows; those of `before` if its run is not here. ValueError if other judges scored it."""
    run, name = study.autoregressive(), study_runs.AUTOREGRESSIVE
    if not run.finished():
        return {name: before[name]} if name in before else {}
    rows = _rows(run)
    if summary.judges(rows) != hashes:
        raise ValueError(f"{run.workdir} was read by other judges than {study.root}: run --part=autoregressive there again")
    return {name: _by_steps(run, rows, name)}


def _comparable(before, found):
    """Whether two results have the same teacher and judges of the same recipe, which may differ in their last digits."""
    data = [[mean(told["references"]["data"]["0"], judge) for judge in found["judges"]] for told in (before, found)]
    same = all(abs(a / b - 1.0) < JUDGES_AGREE for a, b in zip(*data))
    return before["judges"] == found["judges"] and same and before["teacher"]["hash"] == found["teacher"]["hash"]


def _rows(run):
    rows = json.loads((run.workdir / "evaluate/rows.json").read_text())
    return [row for row in rows if row["temperature"] == run.config.evaluate.temperature]


def _teacher(base):
    figures = bookkeeping.done(base.workdir / "teacher")["figures"]
    return {name: figures[name] for name in ("heldout_bits_per_byte", "parameters", "steps", "hash", "seconds") if name in figures}


def _by_steps(run, rows, model):
    """{steps: [metrics of one seed's texts]}, `ppl_token` by judge."""
    found = {}
    for row in rows:
        if row["model"] != model:
            continue
        at = found.setdefault(str(row["steps"]), {}).setdefault(row["seed"], {name: row[name] for name in KEPT} | {"ppl_token": {}})
        at["ppl_token"][row["judge"]] = row["ppl_token"]
    return {steps: list(seeds.values()) for steps, seeds in sorted(found.items(), key=lambda item: int(item[0]))}


def _arm(arm, runs):
    """The results of one arm's runs, one entry a seed."""
    found = {"factor": arm.factor, "overrides": arm.overrides, "steps": {}, "runs": []}
    for run in runs:
        for steps, rows in _by_steps(run, _rows(run), "student_shaped").items():
            found["steps"].setdefault(steps, []).extend(rows)
        figures = bookkeeping.done(run.workdir / "evaluate")["figures"]
        targets = run.workdir / study_targets.TARGETS
        told = json.loads(targets.read_text()) if targets.exists() else None
        found["runs"].append({"seed": run.seed, "bounds": figures["bounds"], "seconds": _seconds(run), "targets": told})
    if arm.factor == "main":
        found["frontier"] = {judge: _frontier(runs, judge, digest) for judge, digest in summary.judges(_rows(runs[0])).items()}
    return found


def _frontier(runs, judge, digest):
    """Perplexity and entropy at each temperature, as means over seeds."""
    each = []
    for run in runs:
        sets = summary.swept(run.config, run.workdir, "student_shaped", FRONTIER, digest)
        each.append(
            [
                {
                    "temperature": one["temperature"],
                    "entropy": float(one["entropy_N"].mean()),
                    "ppl_token": text_metrics.perplexity(one["nll_N"], one["tokens_N"])["ppl_token"],
                }
                for one in sets
            ]
        )
    return [{key: sum(point[key] for point in at) / len(at) for key in at[0]} for at in zip(*each)]


def _seconds(run):
    """Seconds of each stage over all rounds, compilation separate."""
    found = {}
    for name, pattern in STAGES.items():
        rounds = range(run.config.rounds) if "{}" in pattern else range(1)
        told = [bookkeeping.done(run.workdir / pattern.format(r))["figures"] for r in rounds]
        found[name] = {key: round(sum(one[key] for one in told), 1) for key in ("seconds", "compile_seconds")}
    return found


def mean(rows, judge=None, key="ppl_token"):
    """Mean over seeds of a judge's perplexity, or of another metric."""
    values = [row[key][judge] if judge else row[key] for row in rows]
    return sum(values) / len(values)


def held(study, source, found, name):
    """Compare an arm with the bars at each of STEPS: means over seeds, and whether all bars hold under all judges."""
    teacher = found["references"]["teacher"]
    most, arms = max(teacher, key=int), found["arms"]
    told = {}
    for steps in map(str, study_arms.STEPS):
        rows, blind = arms[name]["steps"].get(steps), arms.get("blind", {"steps": {}})["steps"].get(steps)
        if not rows or not blind:
            continue
        over = lambda other, rows=rows: {j: mean(rows, j) / mean(other, j) for j in found["judges"]}
        entropy = mean(rows, key="entropy_nats") / mean(teacher[most], key="entropy_nats")
        apart = {j: min(r["ppl_token"][j] for r in blind) > max(r["ppl_token"][j] for r in rows) for j in found["judges"]}
        one = {"of_teacher": over(teacher[most]), "of_blind": over(blind), "below_every_blind_seed": apart, "entropy": entropy}
        for key, arm in (("matched", name), ("blind_matched", "blind")):
            one[key] = _matched(study, source, arm, int(steps), int(most), found["judges"])
        one["verdict"] = verdict(one, len(rows))
        told[steps] = one
    return told


def verdict(one, seeds):
    """The verdict: met, or the bars that are missed; one seed has no spread to compare with blind's."""
    missed = [] if all(r <= BAR["perplexity"] for r in one["of_teacher"].values()) else ["perplexity"]
    missed += [] if one["entropy"] >= BAR["entropy"] else ["entropy"]
    missed += [] if all(one["below_every_blind_seed"].values()) else ["blind"]
    missed += [] if seeds > 1 else ["spread"]
    matched = [r for r in one["matched"].values() if r is not None]
    if not missed and matched and all(r <= BAR["perplexity"] for r in matched):
        return "met, at matched entropy too"
    return f"missed: {', '.join(missed)}" if missed else "met"


def _matched(study, source, name, steps, most, judges):
    """{judge: perplexity over the teacher's, at the teacher's entropy}; None where no temperature reaches it."""
    base = study.base(source)
    hashes, arm = summary.judges(_rows(base)), next(arm for arm in study_arms.main_arms(study.of(source)) if arm.name == name)
    runs = [run for run in (study.run(arm, source, seed) for seed in study.seeds) if run.finished()]
    found = {}
    for judge in judges:
        own = summary.gathered(base.config, base.workdir, "teacher", most, base.config.evaluate.temperature, hashes[judge])
        over = []
        for run in runs:
            sets = summary.swept(run.config, run.workdir, "student_shaped", steps, hashes[judge])
            told = text_metrics.at_entropy(sets, float(own["entropy_N"].mean()), run.config.report.bootstrap)
            over.append(told["ppl_token"])
        (point,) = text_metrics.frontier([own], base.config.report.bootstrap)
        found[judge] = None if None in over or not over else sum(over) / len(over) / point["ppl_token"]
    return found


def _compass(cells):
    """The cells without the NLLs of single texts, each with its perplexity ratio to the blind cell."""
    blind = cells.get(study_compass.BLIND)
    if blind is None:
        return []
    found = []
    for row in cells.values():
        over = {judge: study_compass.paired(row, blind, judge) for judge in row["judges"]}
        told = {judge: scores["ppl_token"] for judge, scores in row["judges"].items()}
        found.append({key: value for key, value in row.items() if key != "judges"} | {"ppl_token": told, "over_blind": over})
    return found

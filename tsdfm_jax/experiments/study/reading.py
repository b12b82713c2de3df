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
ROW_KEYS = (*cells.FIELDS, "samples", "seed")
STAGES = {"compass": "compass", "trajectories": "trajectories/round_{}", "student": "student/shaped/round_{}"}


def gather(study, before=None):
    """The whole study: its config and environment, and the results of each source with a finished base.

    `before`, if given, is an earlier result: an arm or a part that is missing in this work directory, or has fewer seeds here, is
    copied from it if config and teacher are the same and the judges agree on held-out text. So a study can run in several places.
    """
    earlier = before["sources"] if before and before["config"] == json.loads(study.config.to_json()) else {}
    finished = [source for source in study_arms.SOURCES if study.base(source).finished()]
    sources = {source: _source(study, source, earlier.get(source, {})) for source in finished}
    if not sources:
        raise ValueError(f"{study.root} has no finished base: run --part=base first")
    about = {"schema": SCHEMA, "config_file": study.file, "config": study.config.to_dict(), "given": study.given}
    return about | {"commit": environment.commit(), "environment": environment.describe(), "bar": BAR, "sources": sources}


def _source(study, source, before):
    base = study.base(source)
    rows = _rows(base)
    judges = {row["judge"]: row["judge_parameters"] for row in sorted(rows, key=lambda row: row["judge_parameters"])}
    results = {"judges": judges, "judge_hashes": summary.judges(rows), "teacher": _teacher(base), "references": {}, "arms": {}}
    for name in ("data", "unigram", "teacher"):
        results["references"][name] = _by_steps(base, rows, name)
    before = before if before and _comparable(before, results) else {"arms": {}, "references": {}}
    results["references"] |= _autoregressive(study, results["judge_hashes"], before["references"])
    for arm in [*study_arms.main_arms(study.config_of(source)), *study_arms.ablations(study.config_of(source))]:
        seeds = study.seeds if arm.factor == "main" else study.seeds[:1]
        runs = [run for run in (study.run(arm, source, seed) for seed in seeds) if run.finished()]
        earlier_arm = before["arms"].get(arm.name)
        if (
            earlier_arm
            and earlier_arm["overrides"] == json.loads(json.dumps(arm.overrides))
            and len(earlier_arm["runs"]) > len(runs)
        ):
            results["arms"][arm.name] = earlier_arm
        elif runs:
            results["arms"][arm.name] = _arm(arm, runs)
    for name, arm in results["arms"].items():
        if arm["factor"] == "main" and name != "blind" and arm is not before["arms"].get(name):
            arm["held"] = bar_checks(study, source, results, name)
    read_json = lambda name: json.loads(file.read_text()) if (file := study.root / source / name).exists() else None
    results["compass"], results["cost"] = _compass(read_json(study_compass.FILE) or {}), read_json(study_cost.FILE)
    results["choices"], results["jumps"] = read_json(study_targets.CHOICES) or {}, read_json(study_jumps.FILE) or {}
    return results | {part: results[part] or before.get(part, results[part]) for part in ("compass", "cost", "choices", "jumps")}


def _autoregressive(study, hashes, before):
    """The autoregressive model's rows; those of `before` if its run is not here. ValueError if other judges scored it."""
    run, name = study.autoregressive(), study_runs.AUTOREGRESSIVE
    if not run.finished():
        return {name: before[name]} if name in before else {}
    rows = _rows(run)
    if summary.judges(rows) != hashes:
        raise ValueError(f"{run.workdir} was read by other judges than {study.root}: run --part=autoregressive there again")
    return {name: _by_steps(run, rows, name)}


def _comparable(before, current):
    """Whether two results have the same teacher and judges of the same recipe, which may differ in their last digits."""
    data = [[mean(result["references"]["data"]["0"], judge) for judge in current["judges"]] for result in (before, current)]
    same = all(None not in (a, b) and abs(a / b - 1.0) < JUDGES_AGREE for a, b in zip(*data))
    return before["judges"] == current["judges"] and same and before["teacher"]["hash"] == current["teacher"]["hash"]


def _rows(run):
    rows = json.loads((run.workdir / "evaluate/rows.json").read_text())
    return [row for row in rows if row["temperature"] == run.config.evaluate.temperature]


def _teacher(base):
    figures = bookkeeping.done(base.workdir / "teacher")["figures"]
    return {name: figures[name] for name in ("heldout_bits_per_byte", "parameters", "steps", "hash", "seconds") if name in figures}


def _by_steps(run, rows, model):
    """{steps: [metrics of one seed's texts]}, `ppl_token` by judge."""
    by_steps = {}
    for row in rows:
        if row["model"] != model:
            continue
        scores = by_steps.setdefault(str(row["steps"]), {}).setdefault(
            row["seed"], {name: row[name] for name in ROW_KEYS} | {"ppl_token": {}}
        )
        scores["ppl_token"][row["judge"]] = row["ppl_token"]
    return {steps: list(seeds.values()) for steps, seeds in sorted(by_steps.items(), key=lambda item: int(item[0]))}


def _arm(arm, runs):
    """The results of one arm's runs, one entry a seed."""
    results = {"factor": arm.factor, "overrides": arm.overrides, "steps": {}, "runs": []}
    for run in runs:
        for steps, rows in _by_steps(run, _rows(run), "student_shaped").items():
            results["steps"].setdefault(steps, []).extend(rows)
        figures = bookkeeping.done(run.workdir / "evaluate")["figures"]
        targets = run.workdir / study_targets.TARGETS
        target_scores = json.loads(targets.read_text()) if targets.exists() else None
        results["runs"].append({"seed": run.seed, "bounds": figures["bounds"], "seconds": _seconds(run), "targets": target_scores})
    if arm.factor == "main":
        results["frontier"] = {judge: _frontier(runs, judge, digest) for judge, digest in summary.judges(_rows(runs[0])).items()}
    return results


def _frontier(runs, judge, digest):
    """Perplexity and entropy at each temperature, as means over seeds."""
    by_run = []
    for run in runs:
        sets = summary.frontier_sets(run.config, run.workdir, "student_shaped", FRONTIER, digest)
        by_run.append(
            [
                {
                    "temperature": text_set["temperature"],
                    "entropy": float(text_set["entropy_N"].mean()),
                    "ppl_token": text_metrics.perplexity(text_set["nll_N"], text_set["tokens_N"])["ppl_token"],
                }
                for text_set in sets
            ]
        )
    return [{key: sum(point[key] for point in points) / len(points) for key in points[0]} for points in zip(*by_run)]


def _seconds(run):
    """Seconds of each stage over all rounds, compilation separate."""
    by_stage = {}
    for name, pattern in STAGES.items():
        rounds = range(run.config.rounds) if "{}" in pattern else range(1)
        round_figures = [bookkeeping.done(run.workdir / pattern.format(r))["figures"] for r in rounds]
        by_stage[name] = {key: round(sum(figures[key] for figures in round_figures), 1) for key in ("seconds", "compile_seconds")}
    return by_stage


def mean(rows, judge=None, key="ppl_token"):
    """Mean over the seeds that have it of a judge's perplexity, or of another metric; None if none has."""
    values = [row[key][judge] if judge else row[key] for row in rows]
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def ratio(rows, others, judge=None, key="ppl_token"):
    """The mean of some rows over that of others; None where one is missing."""
    ours, theirs = mean(rows, judge, key), mean(others, judge, key)
    return None if ours is None or theirs is None else ours / theirs


def bar_checks(study, source, results, name):
    """Compare an arm with the bars at each of STEPS: means over seeds, and whether all bars hold under all judges."""
    teacher = results["references"]["teacher"]
    teacher_steps, arms = max(teacher, key=int), results["arms"]
    checks = {}
    for steps in map(str, study_arms.STEPS):
        rows, blind = arms[name]["steps"].get(steps), arms.get("blind", {"steps": {}})["steps"].get(steps)
        if not rows or not blind:
            continue
        ratios_to = lambda other, rows=rows: {j: ratio(rows, other, j) for j in results["judges"]}
        entropy = mean(rows, key="entropy_nats") / mean(teacher[teacher_steps], key="entropy_nats")
        below_every_seed = {
            j: all(_below(r["ppl_token"][j], b["ppl_token"][j]) for r in rows for b in blind) for j in results["judges"]
        }
        check = {
            "of_teacher": ratios_to(teacher[teacher_steps]),
            "of_blind": ratios_to(blind),
            "below_every_blind_seed": below_every_seed,
            "entropy": entropy,
        }
        for key, arm in (("matched", name), ("blind_matched", "blind")):
            check[key] = _matched(study, source, arm, int(steps), int(teacher_steps), results["judges"])
        check["verdict"] = verdict(check, len(rows))
        checks[steps] = check
    return checks


def _below(ours, theirs):
    """Whether one perplexity is below another; a missing one is not."""
    return ours is not None and theirs is not None and ours < theirs


def verdict(check, seeds):
    """The verdict: met, or the bars that are missed; one seed has no spread to compare with blind's."""
    missed = [] if all(r is not None and r <= BAR["perplexity"] for r in check["of_teacher"].values()) else ["perplexity"]
    missed += [] if check["entropy"] >= BAR["entropy"] else ["entropy"]
    missed += [] if all(check["below_every_blind_seed"].values()) else ["blind"]
    missed += [] if seeds > 1 else ["spread"]
    matched = [r for r in check["matched"].values() if r is not None]
    if not missed and matched and all(r <= BAR["perplexity"] for r in matched):
        return "met, at matched entropy too"
    return f"missed: {', '.join(missed)}" if missed else "met"


def _matched(study, source, name, steps, teacher_steps, judges):
    """{judge: perplexity over the teacher's, at the teacher's entropy}; None where no temperature reaches it."""
    base = study.base(source)
    hashes, arm = (
        summary.judges(_rows(base)),
        next(arm for arm in study_arms.main_arms(study.config_of(source)) if arm.name == name),
    )
    runs = [run for run in (study.run(arm, source, seed) for seed in study.seeds) if run.finished()]
    by_judge = {}
    for judge in judges:
        teacher_set = summary.text_scores(
            base.config, base.workdir, "teacher", teacher_steps, base.config.evaluate.temperature, hashes[judge]
        )
        ratios = []
        for run in runs:
            sets = summary.frontier_sets(run.config, run.workdir, "student_shaped", steps, hashes[judge])
            matched = text_metrics.at_entropy(sets, float(teacher_set["entropy_N"].mean()), run.config.report.bootstrap)
            ratios.append(matched["ppl_token"])
        (point,) = text_metrics.frontier([teacher_set], base.config.report.bootstrap)
        by_judge[judge] = None if None in ratios or not ratios else sum(ratios) / len(ratios) / point["ppl_token"]
    return by_judge


def _compass(cells):
    """The cells without the NLLs of single texts, each with its perplexity ratio to the blind cell."""
    blind = cells.get(study_compass.BLIND)
    if blind is None:
        return []
    rows = []
    for row in cells.values():
        ratios = {judge: study_compass.paired(row, blind, judge) for judge in row["judges"]}
        perplexities = {judge: scores["ppl_token"] for judge, scores in row["judges"].items()}
        rows.append(
            {key: value for key, value in row.items() if key != "judges"} | {"ppl_token": perplexities, "over_blind": ratios}
        )
    return rows

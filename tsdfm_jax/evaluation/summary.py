"""Summary of an evaluation: means over seeds, frontiers, perplexity at matched entropy, and the verdict in one sentence."""

import math
import pathlib

import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import records
from tsdfm_jax.evaluation import text_metrics, text_sets
from tsdfm_jax.flow import shaping
from tsdfm_jax.storage import atomic

RECORDS = 512  # records of a set of trajectories to average over


def frontiers(config, workdir, rows):
    """Perplexity against entropy over temperature, for each model in evaluate.frontier and each judge.

    A list of {model, steps, judge, points}; see text_metrics.frontier for the points. Texts of all seeds are pooled.
    """
    curves = []
    for model, steps in settings.frontier(config):
        for judge, digest in judges(rows).items():
            points = text_metrics.frontier(frontier_sets(config, workdir, model, steps, digest), config.report.bootstrap)
            curves.append({"model": model, "steps": steps, "judge": judge, "points": points})
    return curves


def frontier_sets(config, workdir, model, steps, digest):
    """The sets for text_metrics.frontier: every text's metrics under one judge, at each temperature."""
    temperatures = sorted({config.evaluate.temperature, *config.evaluate.frontier_temperatures})
    return [text_scores(config, workdir, model, steps, temperature, digest) for temperature in temperatures]


def text_scores(config, workdir, model, steps, temperature, digest):
    """{temperature, entropy_N, nll_N, tokens_N} of the texts of all seeds, from the files of stage `evaluate`."""
    parts = []
    for seed in config.evaluate.seeds:
        name = text_sets.Set(model, steps, seed, temperature).name(config)
        file = pathlib.Path(workdir) / "evaluate" / f"{name}.json"
        stored = atomic.read_json(file)
        if (scores := stored.get("judges", {}).get(digest)) is None:
            raise ValueError(f"{file} is not there or lacks a judge: run --stage=evaluate, and it is made again")
        parts.append((stored["texts"]["entropy"], scores["nll"], scores["tokens"]))
    entropy_N, nll_N, tokens_N = (np.concatenate([np.array(part[i]) for part in parts]) for i in range(3))
    return {"temperature": temperature, "entropy_N": entropy_N, "nll_N": nll_N, "tokens_N": tokens_N}


def matched(config, workdir, rows):
    """Perplexity of every swept model at the entropy of the teacher's texts at its most steps and the table's temperature.

    A list of {judge, entropy_nats, entropy_of, model, steps, ppl_token, low, high, reached}, including the teacher's own row;
    ppl_token is None where a frontier does not reach that entropy.
    """
    c, matched_rows = config.evaluate, []
    if not settings.frontier(config) or not c.teacher_steps or not networks.needs(config, "teacher"):
        return matched_rows
    most_steps = max(c.teacher_steps)
    for judge, digest in judges(rows).items():
        teacher_set = text_scores(config, workdir, "teacher", most_steps, c.temperature, digest)
        entropy = float(teacher_set["entropy_N"].mean())
        about = {"judge": judge, "entropy_nats": entropy, "entropy_of": f"teacher, {most_steps} steps"}
        (point,) = text_metrics.frontier([teacher_set], config.report.bootstrap)
        result = {"ppl_token": point["ppl_token"], "low": point["ppl_low"], "high": point["ppl_high"], "reached": 1.0}
        matched_rows.append(about | {"model": "teacher", "steps": most_steps} | result)
        for model, steps in settings.frontier(config):
            if (model, steps) != ("teacher", most_steps):
                sets = frontier_sets(config, workdir, model, steps, digest)
                result = text_metrics.at_entropy(sets, entropy, config.report.bootstrap)
                matched_rows.append(about | {"model": model, "steps": steps} | result)
    return matched_rows


def judges(rows):
    """{judge: its identity} of a table, smallest first; see judging.Judge.identity."""
    return {
        row["judge"]: row.get("judge_identity", row["judge_hash"]) for row in sorted(rows, key=lambda row: row["judge_parameters"])
    }


def table(config, rows):
    """The rows at the table's temperature; the other rows are points of frontiers."""
    return [row for row in rows if row["temperature"] == config.evaluate.temperature]


def midpoints(config, workdir):
    """Candidates' energies at each shaped midpoint, and how often the first draw was kept, over records of the last round.

    {"candidates": K, "records": N, "midpoints": [{time, lowest, highest, mean, first, kept, first_kept}]}, each a mean
    over records; None if there is one candidate (K = 1) or there are no shaped whole trajectories.
    """
    directory = pathlib.Path(workdir) / f"trajectories/round_{config.rounds - 1}/shaped/whole"
    if config.shaping.candidates == 1 or "shaped" not in networks.variants(config) or not directory.exists():
        return None
    store = records.open_store(directory)
    sample = [store[i] for i in range(min(len(store), RECORDS))]
    energy_NSK, index_NS = (np.stack([row[name] for row in sample]) for name in ("energy", "index"))
    kept_NS = np.take_along_axis(energy_NSK, index_NS[..., None].astype(int), axis=2)[..., 0]
    figures = {"lowest": energy_NSK.min(axis=2), "highest": energy_NSK.max(axis=2), "mean": energy_NSK.mean(axis=2)}
    figures |= {"first": energy_NSK[..., 0], "kept": kept_NS, "first_kept": index_NS == 0}
    times = [(i + 1) / energy_NSK.shape[1] for i in range(energy_NSK.shape[1])]
    points = [{"time": t} | {name: float(a[:, i].mean()) for name, a in figures.items()} for i, t in enumerate(times)]
    points = [point for point in points if shaping.is_shaped(point["time"], config.shaping)]
    return {"candidates": energy_NSK.shape[2], "records": len(sample), "midpoints": points}


def verdict(rows, matched=(), steps=8):
    """The verdict: is the shaped student below the blind one, and below the teacher at its most steps, under all judges?

    Missing models are left out: the first of shaped student, blind student, teacher and autoregressive model that exists is
    compared with the others, or with real text if it is the only one. Then, if there are frontiers, the student's comparison
    at the teacher's entropy.
    """
    mean = means(rows)
    students = [model_steps for model, model_steps, _ in mean if model.startswith("student_")]
    if students and steps not in students:
        return f"no row of a student at {steps} steps: nothing to compare"
    present = {name: entry for name, entry in compared(mean, steps).items() if (*entry[:2], next(iter(judges(rows)))) in mean}
    if not present:
        return "no row of a model: nothing to compare"
    (first, (model, model_steps, phrase)), *others = present.items()
    if not others and ("data", 0) not in {key[:2] for key in mean}:
        return f"no row beside those of {phrase}: nothing to compare"
    ratios_to = lambda other: [mean[model, model_steps, judge] / mean[(*other, judge)] for judge in judges(rows)]
    if not others:
        return f"{phrase[0].upper()}{phrase[1:]} is at {times(ratios_to(('data', 0)))} of real held-out text's perplexity."
    comparisons = [(ratios_to(other[:2]), other[2]) for _, other in others]
    comparisons = [f"{below(ratios)} {name} under all judges ({times(ratios)})" for ratios, name in comparisons]
    answer = f"{phrase[0].upper()}{phrase[1:]} is " + " and ".join(comparisons) + "."
    ratios = at_matched_entropy(matched)
    if not (own_ratios := ratios.get((model, model_steps))) or not first.startswith("student_"):
        return answer
    answer += f" At that teacher's entropy it is {below(own_ratios)} it ({times(own_ratios)})"
    blind = ratios.get(("student_blind", steps)) if first == "student_shaped" else None
    return answer + (f"; the blind student there: {times(blind)}." if blind else ".")


def means(rows):
    """{(model, steps, judge): perplexity}, mean over seeds; infinite where one of them is beyond all numbers."""
    values_of = {}
    for row in rows:
        values_of.setdefault((row["model"], row["steps"], row["judge"]), []).append(
            math.inf if row["ppl_token"] is None else row["ppl_token"]
        )
    return {key: sum(values) / len(values) for key, values in values_of.items()}


def compared(mean, steps):
    """{model: (model, steps, name)} of the models in the verdict, in its order."""
    most_steps = {}
    for model, model_steps, _ in mean:
        most_steps[model] = max(model_steps, most_steps.get(model, 0))
    entries = {"student_shaped": (steps, f"the shaped student at {steps} steps"), "student_blind": (steps, "the blind student")}
    if "student_shaped" not in most_steps:
        entries["student_blind"] = (steps, f"the blind student at {steps} steps")
    if "teacher" in most_steps:
        entries["teacher"] = (most_steps["teacher"], f"the teacher at {most_steps['teacher']} steps")
    if "autoregressive" in most_steps:
        entries["autoregressive"] = (most_steps["autoregressive"], "the autoregressive model")
    return {model: (model, *entry) for model, entry in entries.items()}


def below(ratios):
    """The words of a comparison: below if all ratios are below 1, else NOT below."""
    return "below" if all(r < 1 for r in ratios) else "NOT below"


def times(ratios):
    """Ratios as text, such as ×0.78, ×0.81."""
    return ", ".join(f"×{r:.2f}" for r in ratios)


def at_matched_entropy(matched):
    """{(model, steps): [perplexity over the teacher's, at the teacher's entropy, by judge]}; None if a judge's is missing."""
    by_model, teacher = {}, {row["judge"]: row for row in matched if row["entropy_of"] == f"{row['model']}, {row['steps']} steps"}
    for row in matched:
        if row is not teacher.get(row["judge"]):
            teacher_ppl = teacher[row["judge"]]["ppl_token"]
            by_model.setdefault((row["model"], row["steps"]), []).append(
                row["ppl_token"] and teacher_ppl and row["ppl_token"] / teacher_ppl
            )
    return {key: None if None in ratios else ratios for key, ratios in by_model.items()}


SCHEMA = 2

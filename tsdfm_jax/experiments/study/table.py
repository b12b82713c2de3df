"""Write the study's results: `study-<config>.json`, the tables in STUDY.md, and the figures."""

import json
import re
import statistics

from tsdfm_jax.experiments.study import arms as study_arms, reading as study_read, runs as study_runs, samples as study_samples
from tsdfm_jax.storage import atomic

PAGE = "STUDY.md"


def write(study, out, name):
    """Write study-<name>.json, figures and texts, and fill the tables of STUDY.md if it exists; returns 0."""
    from tsdfm_jax.experiments.study import figures as study_figures

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"study-{name}.json"
    summary = study_read.gather(study, json.loads(file.read_text()) if file.exists() else None)
    atomic.overwrite(file, atomic.json_text(atomic.finite(summary), separators=(",", ":")) + "\n")
    figures = study_figures.write(summary, out / "study")
    page = out / PAGE
    if page.exists():
        atomic.overwrite(page, with_tables(page.read_text(), tables(summary)))
    samples = study_samples.write(study, out / name / "samples")
    print(f"{file}, {len(samples)} files of texts in {out / name / 'samples'}, {len(figures)} figures in {out / 'study'}")
    return 0


def tables(summary):
    """{name: Markdown} of every table with data."""
    texts = {}
    for source, results in summary["sources"].items():
        texts[f"main-{source}"] = main_table(results)
        texts[f"bars-{source}"] = bars_table(results)
        texts[f"ablations-{source}"] = ablation_table(results)
        texts[f"compass-{source}"] = compass_table(results)
        texts[f"choices-{source}"] = choices_table(results)
        texts[f"targets-{source}"] = targets_table(results)
        texts[f"jumps-{source}"] = jumps_table(results)
    texts["headline"] = headline_table(summary["sources"])
    return {name: text for name, text in texts.items() if text}


def with_tables(page, texts):
    """The page with every `<!-- table NAME -->` … `<!-- end -->` block replaced by the table of that name."""

    def block(match):
        return f"<!-- table {match[1]} -->\n{texts.get(match[1], 'Not measured.')}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", block, page, flags=re.S)


def markdown(heads, lines):
    """A Markdown table; the first column is aligned left."""
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def spread(values, form="{:.0f}"):
    """Mean and standard deviation over seeds as text; one seed has no deviation."""
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else mean


def headline_table(sources):
    """Every main arm at FRONTIER steps over its teacher at most steps, by source; then further rows for comparison."""
    steps, fewest_steps, one_each = str(study_read.FRONTIER), str(min(study_arms.STEPS)), study_runs.AUTOREGRESSIVE
    names = dict.fromkeys(name for results in sources.values() for name, arm in results["arms"].items() if arm["factor"] == "main")
    arm = lambda results, name: results["arms"].get(name, {"steps": {}})
    cells_for = {name: lambda results, name=name: _over_teacher(results, arm(results, name)["steps"].get(steps)) for name in names}
    only = lambda results: next(iter(results["references"].get(one_each, {}).values()), None)
    cells_for[f"{one_each}, one step a token"] = lambda results: _over_teacher(results, only(results))
    cells_for[f"shaped, {fewest_steps} steps"] = lambda results: _over_teacher(
        results, arm(results, "shaped")["steps"].get(fewest_steps)
    )
    cells_for["blind, at the teacher's entropy"] = lambda results: _at_its_entropy(arm(results, "shaped"), "blind_matched", steps)
    cells_for["shaped, at the teacher's entropy"] = lambda results: _at_its_entropy(arm(results, "shaped"), "matched", steps)
    cells_of = {name: [cells(results) for results in sources.values()] for name, cells in cells_for.items()}
    blank = ["–"] * 3
    lines = [
        [name, *(cell for cells in by_source for cell in cells or blank)] for name, by_source in cells_of.items() if any(by_source)
    ]
    most_steps = max(max(map(int, results["references"]["teacher"])) for results in sources.values())
    heads = [h for source in sources for h in (f"{source}: ppl over the teacher's at {most_steps:,}", "entropy over its", "seeds")]
    return markdown([f"at {steps} steps", *heads], lines)


def _over_teacher(results, rows):
    """[perplexity by each judge, entropy, seeds] of rows over the teacher's at its most steps; None without rows."""
    if not rows:
        return None
    by_steps = results["references"]["teacher"]
    teacher = by_steps[max(by_steps, key=int)]
    ratio = lambda **of: study_read.ratio(rows, teacher, **of)
    return [_ratios(ratio(judge=judge) for judge in results["judges"]), spread([ratio(key="entropy_nats")], "{:.3f}"), len(rows)]


def _at_its_entropy(arm, key, steps):
    """The same at the teacher's entropy, from `held`."""
    check = arm.get("held", {}).get(steps)
    return check and [_ratios(check[key].values()), "1", len(arm["steps"][steps])]


def _ratios(values):
    return ", ".join("–" if value is None else f"×{value:.2f}" for value in values)


def main_table(results):
    """References and main arms at each number of steps: perplexity by each judge, entropy and further text metrics."""
    judges, lines = results["judges"], []
    for name, by_steps in [
        *results["references"].items(),
        *((n, a["steps"]) for n, a in results["arms"].items() if a["factor"] == "main"),
    ]:
        for steps, rows in by_steps.items():
            figure = lambda key, form="{:.2f}", rows=rows: spread([row.get(key) for row in rows], form)
            scores = [spread([row["ppl_token"][judge] for row in rows]) for judge in judges]
            text_cells = [figure("distinct_2"), figure("repetition_4", "{:.3f}"), figure("lexical"), figure("mauve")]
            lines.append([name, steps if int(steps) else "–", *scores, figure("entropy_nats", "{:.3f}"), *text_cells, len(rows)])
    heads = [f"ppl, judge of {size / 1e6:.2f}M" for size in judges.values()]
    return markdown(["", "steps", *heads, "entropy, nats", "distinct-2", "repeated 4-grams", "lexical", "MAUVE", "seeds"], lines)


def bars_table(results):
    """The bars, for every main arm and number of steps."""
    lines = []
    for name, arm in results["arms"].items():
        for steps, check in arm.get("held", {}).items():
            ratios = lambda key, check=check: _ratios(check[key].values())
            lines.append(
                [
                    name,
                    steps,
                    ratios("of_teacher"),
                    f"{check['entropy']:.3f}",
                    ratios("of_blind"),
                    ratios("matched"),
                    ratios("blind_matched"),
                    check["verdict"],
                ]
            )
    most_steps = max(map(int, results["references"].get("teacher", {"0": 0})))
    heads = [
        "",
        "steps",
        f"ppl over teacher's at {most_steps:,}",
        "entropy over its",
        "ppl over blind's",
        "ppl over teacher's at its entropy",
        "blind's there",
    ]
    return markdown([*heads, "bar"], lines) if lines else ""


def ablation_table(results):
    """One factor at a time, at the reduced budget: the final texts of an arm's records, and its student's texts."""
    arms = {name: arm for name, arm in results["arms"].items() if arm["factor"] != "main"}
    if not arms:
        return ""
    lines = []
    for name, arm in arms.items():
        # Records of a target other than the end of whole trajectories have no text of their own.
        target_rows = [run["targets"] for run in arm["runs"] if run["targets"]]
        row_groups = [target_rows, *(arm["steps"].get(str(steps), []) for steps in study_arms.STEPS)]
        lines.append([arm["factor"], name, *(cell for rows in row_groups for cell in score_cells(results, rows))])
    places = ["of its records", *(f"at {steps} steps" for steps in study_arms.STEPS)]
    return markdown(["factor", "arm", *(head for place in places for head in (f"ppl {place}", "entropy"))], lines)


def score_cells(results, rows):
    """[perplexity by each judge, entropy] over seeds, as cells."""
    scores = " / ".join(spread([row["ppl_token"][judge] for row in rows]) for judge in results["judges"]) if rows else "–"
    return [scores, spread([row["entropy_nats"] for row in rows], "{:.3f}")]


def compass_table(results):
    """Each compass steering the teacher at every midpoint: perplexity over blind's, and entropy."""
    lines = []
    for row in results.get("compass", []):
        if row["arrives"] is None:
            ratios = [f"×{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})" for ratio in row["over_blind"].values()]
            lines.append([row["compass"], row["candidates"], *ratios, f"{row['entropy_nats']:.3f}"])
    judges = list(next(iter(results["compass"]))["over_blind"]) if lines else []
    return markdown(["compass", "K", *judges, "entropy, nats"], lines) if lines else ""


def choices_table(results):
    """The final texts under each shaping, by the pilot judge."""
    lines = []
    for name, row in results["choices"].items():
        (score,) = row["ppl_token"].values()
        lines.append([name, spread([score]), f"{row['entropy_nats']:.3f}", f"{row['distinct_2']:.2f}", row["samples"]])
    return markdown(["shaping", "ppl, pilot judge", "entropy, nats", "distinct-2", "texts"], lines) if lines else ""


def targets_table(results):
    """The texts that each main arm learnt from, beside its student's texts in 8 steps."""
    lines = []
    for name, arm in results["arms"].items():
        targets = [run["targets"] for run in arm["runs"] if run["targets"]]
        if arm["factor"] == "main" and targets and "8" in arm["steps"]:
            noise_left = spread([row["noise_left"][len(row["noise_left"]) // 2] for row in targets], "{:.3f}")
            lines.append([name, noise_left, *score_cells(results, targets), *score_cells(results, arm["steps"]["8"])])
    heads = ["", "noise left half-way", "ppl of its trajectories' texts", "entropy", "ppl of the student at 8 steps", "entropy"]
    return markdown(heads, lines) if lines else ""


def jumps_table(results):
    """One seed's students, sampling with each kind of jump."""
    lines = []
    for name, by_kind in results["jumps"].items():
        for kind, by_steps in by_kind.items():
            score_pairs = [
                (" / ".join(spread([score]) for score in scores_at["ppl_token"].values()), scores_at["entropy_nats"])
                for scores_at in by_steps.values()
            ]
            lines.append([name, kind, *(cell for scores, entropy in score_pairs for cell in (scores, f"{entropy:.3f}"))])
    heads = [head for steps in study_arms.STEPS for head in (f"ppl at {steps} steps", "entropy")]
    return markdown(["student", "jump at sampling", *heads], lines) if lines else ""

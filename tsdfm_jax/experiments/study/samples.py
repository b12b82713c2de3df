"""Export the headline texts for other judges: a JSON lines file each for the teacher, held-out text and the arms of ARMS."""

import json

from tsdfm_jax.evaluation import text_sets
from tsdfm_jax.experiments.study import arms as study_arms
from tsdfm_jax.storage import atomic

ARMS = ("blind", "random", "shaped")
KEYS = ("model", "steps", "seed", "temperature", "index", "text")


def write(study, directory):
    """Write `<source>-<name>.jsonl` for data, teacher and every finished arm of ARMS; returns the paths."""
    files = []
    for source in study_arms.SOURCES:
        base = study.base(source)
        if not base.finished():
            continue
        teacher_steps = base.config.evaluate.teacher_steps
        steps = sorted({*study_arms.STEPS, max(teacher_steps)} & set(teacher_steps))
        files.append(_file(directory / f"{source}-data.jsonl", [base], "data", (0,)))
        files.append(_file(directory / f"{source}-teacher.jsonl", [base], "teacher", steps))
        for arm in study_arms.main_arms(study.config_of(source)):
            runs = [run for run in (study.run(arm, source, seed) for seed in study.seeds) if run.finished()]
            if runs and arm.name in ARMS:
                steps = [n for n in study_arms.STEPS if n in study.config.evaluate.student_steps]
                files.append(_file(directory / f"{source}-{arm.name}.jsonl", runs, "student_shaped", steps))
    return files


def _file(file, runs, model, steps):
    """Write the texts of all seeds at these numbers of steps, at the table's temperature, to `file`."""
    lines = []
    for run in runs:
        c = run.config.evaluate
        for seed in c.seeds:
            for n in steps:
                texts_file = run.workdir / "samples" / f"{text_sets.Set(model, n, seed, c.temperature).name(run.config)}.jsonl"
                lines += [{key: line[key] for key in KEYS} for line in map(json.loads, texts_file.read_text().splitlines())]
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.overwrite(file, "".join(atomic.json_text(line, ensure_ascii=False) + "\n" for line in lines))
    return file

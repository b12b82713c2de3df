"""The students' targets: final texts of trajectories before any student is trained, and of the records of finished runs.

`choices`: texts of the teacher's trajectories under every arm's shaping, by the pilot judge; they decided the config's shaping.
`targets`: the final texts of each finished run's records, by every judge; they show how far a student is from its targets.
"""

import fnmatch
import json

import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.data import records
from tsdfm_jax.distillation import generation
from tsdfm_jax.evaluation import judging, text_metrics
from tsdfm_jax.experiments.study import arms as study_arms
from tsdfm_jax.runtime import hosts, mesh as meshes, metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import trained

CHOICES, TARGETS = "choices.json", "targets.json"
RECORDS = 256  # records of a run to judge


def choices(study, source, pattern="*"):
    """Write `choices.json` into the source's directory: a row for every arm of `arms_of`; keeps existing rows.

    The names of the arms must match `pattern`.
    """
    base, file = study.base(source), study.root / source / CHOICES
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(file.read_text()) if file.exists() else {}
    arms = [arm for arm in arms_of(study.config_of(source)) if arm.name not in rows and fnmatch.fnmatch(arm.name, pattern)]
    if not arms:
        return
    mesh = settings.mesh(base.config)
    teacher, pilot = (
        trained.teacher(base.config, base.workdir, mesh),
        judging.trained_judge(base.config, base.workdir, mesh, "pilot"),
    )
    with signals.stopping(), metrics_lib.progress(f"choices {source}", len(arms), "arm") as bar:
        for arm in arms:
            if signals.stop_agreed():
                raise KeyboardInterrupt
            config = study.run(arm, source, study.seeds[0]).config
            x_NL = texts(config, base, teacher, mesh)
            rows[arm.name] = {"factor": arm.factor, "overrides": arm.overrides, "config": config.shaping.to_dict()} | text_scores(
                [pilot], x_NL, mesh
            )
            atomic.overwrite(file, atomic.json_text(atomic.finite(rows), indent=1))
            bar.advance(1)


def arms_of(config):
    """The arms that need only the teacher for their trajectories: no second round and no trained compass."""
    arms = [*study_arms.main_arms(config), *study_arms.ablations(config)]
    keys = ("shaping.", "compass.score", "compass.prior", "trajectories.midpoints", "flow.jump")
    return [
        arm for arm in arms if arm.name == "reference" or (arm.overrides and all(key.startswith(keys) for key in arm.overrides))
    ]


def texts(config, base, teacher, mesh):
    """Final texts of `compass.steered_samples` trajectories."""
    text_vocab, batch = trained.tokenizer(base.config, base.workdir).vocab_size, config.trajectories.batch
    program = generation.program(config, text_vocab, mesh, "whole", "shaped", teacher.apply)
    no_data = meshes.put_whole(mesh, np.zeros((batch, config.data.length), np.int32))  # whole trajectories start from noise
    number = base.config.compass.steered_samples
    parts = [
        hosts.gather(program({"generator": teacher.params, "compass": None}, np.int32(first), no_data)["states"])[:, -1]
        for first in range(0, number, batch)
    ]
    return np.concatenate(parts)[:number]


def targets(study, runs):
    """Write `targets.json` into every finished run that has none and learnt from whole trajectories.

    `noise_left` is the share of positions that still hold the source's token, at each of the S + 1 states. If shaping picks
    candidates that jump early, the states are ahead of their time, and a student does not meet them when it samples.
    """
    by_source = {}
    for run in runs:
        directory = run.workdir / f"trajectories/round_{run.config.rounds - 1}/shaped/whole"
        if not run.finished() or not directory.exists() or (run.workdir / TARGETS).exists():
            continue
        if run.source not in by_source:
            base, mesh = study.base(run.source), settings.mesh(run.config)
            names = ("pilot", *range(len(base.config.judges.widths)))
            by_source[run.source] = mesh, [judging.trained_judge(base.config, base.workdir, mesh, name) for name in names]
        (mesh, judges), store = by_source[run.source], records.open_store(directory)
        x_NSL = np.stack([store[i]["states"] for i in range(min(len(store), RECORDS))]).astype(np.int32)
        left_S = (x_NSL == x_NSL[:, :1]).mean((0, 2))
        scores = text_scores(judges, x_NSL[:, -1], mesh) | {"noise_left": [round(float(share), 4) for share in left_S]}
        atomic.overwrite(run.workdir / TARGETS, atomic.json_text(atomic.finite(scores), indent=1))


def text_scores(judges, x_NL, mesh, batch=64):
    """Entropy, distinct-2 and each judge's perplexity of texts."""
    perplexities = {judge.name: judging.perplexity(judge, x_NL, batch, mesh)["ppl_token"] for judge in judges}
    entropy = float(text_metrics.entropy_nats_N(x_NL).mean())
    return {
        "samples": len(x_NL),
        "entropy_nats": entropy,
        "distinct_2": text_metrics.distinct(x_NL, 2),
        "ppl_token": perplexities,
    }

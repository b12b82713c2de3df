"""The study: does shaping the trajectory beat blind jumps at equal budget? `python -m launch.study --workdir=runs/study-sotu`.

Trains one teacher a source, then a student for every arm (arms.py beside this file), and gathers the results into
`results/study-sotu.json`, tables and figures. Each run is a run of `python -m tsdfm_jax.main`; the same command resumes a
stopped study and skips finished runs. Parts, in order: base (tokenizer, data, judges, teachers and their texts),
autoregressive (a causal transformer of the teacher's size and its texts), choices (the final texts under each arm's shaping,
by the pilot judge), compass (the effect of picking by energy), main (the headline arms, every seed), ablations (one factor at
a time), jumps (one student, sampled by each kind of jump), targets (the texts that students learnt from, by every judge),
cost, table.

For a larger study give the same command another config: --config=configs/fineweb_170m.py --workdir=/mnt/shared/study.

The exit code is 0 if all requested parts are done, 1 if a run failed, 2 if the study could not begin, and 128 plus the signal
if it was stopped.
"""

import fnmatch
import functools
import shlex

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.study import arms as study_arms, runs as study_runs
from tsdfm_jax.experiments.sweep import jobs as sweep_jobs, plan as sweep_plan
from tsdfm_jax.runtime import memory
from tsdfm_jax.storage import places

parse, fail = functools.partial(command_line.parse, "study"), functools.partial(command_line.fail, "study")
PARTS = ("base", "autoregressive", "choices", "compass", "main", "ablations", "jumps", "targets", "cost", "table")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/sotu.py", "The config that all arms override.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the runs; by default runs/study- and the config's name.")
_OUT = flags.DEFINE_string("out", "results", "Directory where the table part writes study-<config>.json and the figures.")
_PART = flags.DEFINE_list("part", [], f"Parts to run, comma-separated: {', '.join(PARTS)}. All by default.")
_SOURCE = flags.DEFINE_list("source", list(study_arms.SOURCES), "Sources to run, comma-separated.")
_SEEDS = flags.DEFINE_list(
    "seeds", [str(seed) for seed in study_arms.SEEDS], "Seeds of the main arms and of the texts; ablations use the first."
)
_ONLY = flags.DEFINE_string("only", "*", "Run only arms with names that match this pattern, such as 'K=*'.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Number of runs at a time on this machine; they share its devices.", lower_bound=1)
_DRY_RUN = flags.DEFINE_bool("dry-run", False, "Print the commands of the unfinished runs, and run nothing.")


def main(argv):
    """Run the requested parts in order; returns the exit code."""

    def begin():
        file = command_line.config_file(argv, "configs/sotu.py")
        name = command_line.run_name(file)
        root = places.expanded(_WORKDIR.value or f"runs/study-{name}")
        given = config_flags.get_override_values(flags.FLAGS["config"])
        study = study_runs.Study(file=file, config=_CONFIG.value, given=given, root=root, seeds=seeds())
        check(study)
        if _DRY_RUN.value:
            return print_commands(study)
        memory.keep()
        with sweep_plan.held(root / "-".join(_SOURCE.value), "launch.study"):
            # Each part needs the parts before it.
            return int(any(perform(study, part, name) for part in PARTS if part in (_PART.value or PARTS)))

    return sweep_jobs.attempt(begin, fail)


def check(study):
    """Raise ValueError for an unknown part or source, and for an arm with an invalid config."""
    for flag, values, known in (("part", _PART.value, PARTS), ("source", _SOURCE.value, study_arms.SOURCES)):
        for value in values:
            if value not in known:
                raise ValueError(f"--{flag}={value} is not one of {', '.join(known)}")
    study.check(runs(study))


def seeds():
    """The seeds of the flag; ValueError for an invalid one."""
    for seed in _SEEDS.value:
        if not seed.isdecimal():
            raise ValueError(f"--seeds={seed} is not a whole number: --seeds=0,1,2")
    return tuple(map(int, _SEEDS.value))


def runs(study, parts=None):
    """The runs of base, autoregressive, main and ablations that the flags select."""
    parts, selected = parts or _PART.value or PARTS, []
    for source in _SOURCE.value:
        selected += [study.base(source)] if "base" in parts else []
        for part, arms, seeds in (
            ("main", study_arms.main_arms(study.config_of(source)), study.seeds),
            ("ablations", study_arms.ablations(study.config_of(source)), study.seeds[:1]),
        ):
            if part in parts:
                wanted = [arm for arm in arms if fnmatch.fnmatch(arm.name, _ONLY.value)]
                # Seed by seed, so that an interrupted study has complete comparisons.
                selected += [study.run(arm, source, seed) for seed in seeds for arm in wanted]
    return selected + ([study.autoregressive()] if "autoregressive" in parts else [])


def print_commands(study):
    """Print the unfinished runs as shell commands."""
    for run in runs(study):
        print(f"# finished: {run.name}" if run.finished() else shlex.join(["python", *sweep_plan.MAIN[1:], *run.arguments]))
    return 0


def perform(study, part, name):
    """Run one part; returns 0 if it is complete."""
    if part in ("base", "autoregressive", "main", "ablations"):
        waiting = [run for run in runs(study, (part,)) if not run.finished()]
        with sweep_jobs.progress(len(waiting), 0, "study") as say:
            return study.work(waiting, _PARALLEL.value, say)
    if part == "table":
        from tsdfm_jax.experiments.study import table as study_table

        return study_table.write(study, places.expanded(_OUT.value), name)
    from tsdfm_jax.experiments.study import (
        compass as study_compass,
        cost as study_cost,
        jumps as study_jumps,
        targets as study_targets,
    )

    if part == "targets":
        study_targets.targets(study, runs(study, ("main", "ablations")))
        return 0
    choices = functools.partial(study_targets.choices, pattern=_ONLY.value)
    measure = {"choices": choices, "compass": study_compass.measure, "jumps": study_jumps.measure, "cost": study_cost.measure}[part]
    for source in _SOURCE.value:
        measure(study, source)
    return 0

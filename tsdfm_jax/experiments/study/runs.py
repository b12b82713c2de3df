"""The runs of a study: their directories, the stages they share, and whether they are finished."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from configs.baselines import autoregressive
from tsdfm_jax.experiments.study import arms as study_arms
from tsdfm_jax.experiments.sweep import hyper, jobs as sweep_jobs, plan as sweep_plan, runs as sweep_runs

BASE, AUTOREGRESSIVE = "base", "autoregressive"
SHARED = ("tokenizer", "data", "judges", "teacher")
# Stages that depend on the text alone, not on the source.
OF_TEXT = ("tokenizer", "data", "judges")
STAGES = ("compass", "trajectories", "student", "evaluate")
TEACHER_STEPS = (4, 8, 16, 64, 1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of main.

    Attributes:
      name: source, arm and seed.
      arm: None for a source's base and for the autoregressive model.
      config: the whole config.
      workdir: its work directory.
      arguments: command line arguments of main.
      links: {stage: the work directory that made it}.
    """

    name: str
    arm: Any
    source: str
    seed: int
    config: ConfigDict
    workdir: pathlib.Path
    arguments: list[str]
    links: dict[str, pathlib.Path]

    def finished(self):
        """Whether main's last stage is finished here with the same config, except the keys of EVALUATION_KEYS."""
        config_file, done_file = self.workdir / "config.json", self.workdir / "evaluate/done.json"
        if not config_file.exists() or not done_file.exists():
            return False
        stored, wanted = json.loads(config_file.read_text()), json.loads(self.config.to_json())
        return _without_evaluation_keys(stored) == _without_evaluation_keys(wanted)

    def link(self):
        """Link the stages that other runs made into the work directory."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        for stage, directory in self.links.items():
            link_path = self.workdir / stage
            if not link_path.is_symlink() and not link_path.exists():
                link_path.symlink_to(os.path.relpath(directory / stage, self.workdir))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Common to all runs: the config's file, the config, the command line's overrides (`given`), the directory, the seeds."""

    file: str
    config: ConfigDict
    given: dict[str, Any]
    root: pathlib.Path
    seeds: tuple[int, ...] = study_arms.SEEDS

    def config_of(self, source):
        """The config with a source's overrides."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(self._overrides_of(source))
        return config

    def _overrides_of(self, source):
        """A source's overrides, without the keys given on the command line."""
        own = {key: value for key, value in study_arms.OF_SOURCE[source].items() if key not in self.given}
        return {"flow.source": source, **own}

    def base(self, source):
        """The run that makes the stages that all arms of a source share, and their teacher's texts."""
        first_source = study_arms.SOURCES[0]
        changes = {"models": ("teacher",), "sample.model": "teacher"}
        changes |= {"evaluate.seeds": self.seeds, "evaluate.teacher_steps": TEACHER_STEPS}
        changes["evaluate.frontier"] = "teacher:8"
        links = {stage: self.root / first_source / BASE for stage in OF_TEXT} if source != first_source else {}
        stages = [stage for stage in (*SHARED, "evaluate") if stage not in links]
        return self._make(f"{source}/{BASE}", None, source, 0, changes, stages, links)

    def autoregressive(self):
        """The run of the autoregressive model of configs/baselines, which has no source, teacher or choice of steps."""
        first_source = study_arms.SOURCES[0]
        source_config = self.config_of(first_source)
        changes = hyper.differing(AUTOREGRESSIVE, source_config, autoregressive.model(source_config.copy_and_resolve_references()))
        changes = {"models": (AUTOREGRESSIVE,), "sample.model": AUTOREGRESSIVE, **changes}
        changes |= {"evaluate.seeds": self.seeds, "evaluate.frontier": ""}
        links = {stage: self.root / first_source / BASE for stage in OF_TEXT}
        return self._make(AUTOREGRESSIVE, None, first_source, 0, changes, (AUTOREGRESSIVE, "evaluate"), links)

    def run(self, arm, source, seed):
        """The run of an arm's student with one seed."""
        changes = study_arms.overrides(self.config_of(source), arm, seed)
        links = {stage: self.root / source / BASE for stage in SHARED}
        return self._make(f"{source}/{arm.name}/s{seed}", arm, source, seed, changes, STAGES, links)

    def _make(self, name, arm, source, seed, changes, stages, links):
        full_config = self.config_of(source)
        with full_config.unlocked():
            full_config.update_from_flattened_dict(changes)
        workdir = self.root / name
        arguments = sweep_runs.arguments(self.file, workdir, {**self.given, **self._overrides_of(source), **changes}, stages)
        return Run(
            name=name, arm=arm, source=source, seed=seed, config=full_config, workdir=workdir, arguments=arguments, links=links
        )

    def check(self, runs):
        """Raise ValueError, in one line, for the first run with an invalid config."""
        for run in runs:
            sweep_runs.check(run.name, run.config)

    def work(self, runs, parallel, say):
        """Do these runs, the bases first; returns the exit code."""
        bases = [run for run in runs if run.arm is None]
        for run in bases:  # one at a time: the second needs the first
            code = self._run_jobs([run], 1, say)
            if code:
                return code
        return self._run_jobs([run for run in runs if run.arm is not None], parallel, say)

    def _run_jobs(self, runs, parallel, say):
        for run in runs:
            run.link()
        jobs = [sweep_jobs.Job(run.name, [*sweep_plan.MAIN, *run.arguments], run.workdir) for run in runs]
        return 1 if any(sweep_jobs.run(jobs, parallel, say).values()) else 0


def _without_evaluation_keys(config):
    """A config as plain JSON, without the keys of EVALUATION_KEYS."""
    dropped = [key.removeprefix("compass.") for key in study_arms.EVALUATION_KEYS]
    return config | {"compass": {key: value for key, value in config["compass"].items() if key not in dropped}}

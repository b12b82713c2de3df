"""The runs of a study: where they are, what they share, whether they are done."""

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
# Students and judges are of the text alone, whatever the source.
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
      workdir: where it lives.
      arguments: what main is started with.
      links: {stage: the work directory that made it}, relative to this one's.
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
        """Whether main has ended well here, with this very config but for what no student depends on: its last stage is done."""
        kept, last = self.workdir / "config.json", self.workdir / "evaluate/done.json"
        if not kept.exists() or not last.exists():
            return False
        made, now = json.loads(kept.read_text()), json.loads(self.config.to_json())
        return _without_account(made) == _without_account(now)

    def link(self):
        """Let the stages of others stand here as if they had been made here."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        for stage, where in self.links.items():
            place = self.workdir / stage
            if not place.is_symlink() and not place.exists():
                place.symlink_to(os.path.relpath(where / stage, self.workdir))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """All that the runs have in common: the config's file, the config, what was given on the command line, the directory, the seeds."""

    file: str
    config: ConfigDict
    given: dict[str, Any]
    root: pathlib.Path
    seeds: tuple[int, ...] = study_arms.SEEDS

    def of(self, source):
        """The config under a source."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(self._own(source))
        return config

    def _own(self, source):
        """What a source's config has of its own; what was given on the command line stands."""
        own = {key: value for key, value in study_arms.OF_SOURCE[source].items() if key not in self.given}
        return {"flow.source": source, **own}

    def base(self, source):
        """The run that makes what all arms of a source share, and the texts of their teacher."""
        first = study_arms.SOURCES[0]
        changes = {"models": ("teacher",), "sample.model": "teacher"}
        changes |= {"evaluate.seeds": self.seeds, "evaluate.teacher_steps": TEACHER_STEPS}
        changes["evaluate.frontier"] = "teacher:8"
        links = {stage: self.root / first / BASE for stage in OF_TEXT} if source != first else {}
        stages = [stage for stage in (*SHARED, "evaluate") if stage not in links]
        return self._make(f"{source}/{BASE}", None, source, 0, changes, stages, links)

    def autoregressive(self):
        """The causal transformer of configs/baselines, which has no source, no teacher and no steps to choose."""
        first = study_arms.SOURCES[0]
        own = self.of(first)
        changes = hyper.differing(AUTOREGRESSIVE, own, autoregressive.model(own.copy_and_resolve_references()))
        changes = {"models": (AUTOREGRESSIVE,), "sample.model": AUTOREGRESSIVE, **changes}
        changes |= {"evaluate.seeds": self.seeds, "evaluate.frontier": ""}
        links = {stage: self.root / first / BASE for stage in OF_TEXT}
        return self._make(AUTOREGRESSIVE, None, first, 0, changes, (AUTOREGRESSIVE, "evaluate"), links)

    def run(self, arm, source, seed):
        """One student."""
        changes = study_arms.overrides(self.of(source), arm, seed)
        links = {stage: self.root / source / BASE for stage in SHARED}
        return self._make(f"{source}/{arm.name}/s{seed}", arm, source, seed, changes, STAGES, links)

    def _make(self, name, arm, source, seed, changes, stages, links):
        whole = self.of(source)
        with whole.unlocked():
            whole.update_from_flattened_dict(changes)
        workdir = self.root / name
        told = sweep_runs.arguments(self.file, workdir, {**self.given, **self._own(source), **changes}, stages)
        return Run(name=name, arm=arm, source=source, seed=seed, config=whole, workdir=workdir, arguments=told, links=links)

    def check(self, runs):
        """Raise ValueError, one line, for the first run whose config cannot work."""
        for run in runs:
            sweep_runs.check(run.name, run.config)

    def work(self, runs, parallel, say):
        """Run these, those of a source behind its base; the exit code."""
        bases = [run for run in runs if run.arm is None]
        for run in bases:  # the second one stands on the first
            code = self._here([run], 1, say)
            if code:
                return code
        return self._here([run for run in runs if run.arm is not None], parallel, say)

    def _here(self, runs, parallel, say):
        for run in runs:
            run.link()
        jobs = [sweep_jobs.Job(run.name, [*sweep_plan.MAIN, *run.arguments], run.workdir) for run in runs]
        return 1 if any(sweep_jobs.run(jobs, parallel, say).values()) else 0


def _without_account(config):
    """A config, as plain JSON, but for the size of the compass's account of itself."""
    left = [key.removeprefix("compass.") for key in study_arms.ACCOUNT]
    return config | {"compass": {key: value for key, value in config["compass"].items() if key not in left}}

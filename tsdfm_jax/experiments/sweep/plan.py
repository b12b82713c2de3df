"""A whole sweep: its runs and their shared stages, run here or handed to a launcher."""

import importlib.util
import shlex
import sys
import time

from tsdfm_jax.experiments.sweep import hyper, jobs as sweep_jobs, runs as sweep_runs
from tsdfm_jax.storage import lock

MAIN = (sys.executable, "-m", "tsdfm_jax.main")
HANDED_OUT = "handed_out.json"


class Sweep:
    """The runs of a sweep and their shared stages; `main` is the command that starts a run, `remake` its flag.

    Attributes:
      runs: a list of `sweep_runs.Run`.
      shared: the stages that are made once.
      common: the run that makes the shared stages, None if there are none.
    """

    def __init__(self, file, config, given, root, main=None, remake=False):
        self.file, self.root, self.main, self._remake = file, root, list(main or MAIN), ["--remake"] if remake else []
        self.runs = sweep_runs.expand(file, config, given, read_hyper(file), root)
        self.shared = sweep_runs.shared_stages([run.config for run in self.runs])
        self.common = self._common(config, given) if self.shared else None

    def _common(self, config, given):
        first, rest = self.runs[0], self.runs[1:]
        constant = {k: v for k, v in first.overrides.items() if all(run.overrides.get(k) == v for run in rest)}
        models = tuple(dict.fromkeys(name for run in self.runs for name in run.config.models))
        full_config = config.copy_and_resolve_references()
        full_config.update_from_flattened_dict(constant)
        if models != full_config.models:  # shared stages serve all runs' models; the other keys must not name further ones
            constant |= {"models": models, "sample.model": models[0], "evaluate.frontier": ""}
            full_config.update_from_flattened_dict(constant)
        workdir = self.root / sweep_runs.COMMON
        arguments = sweep_runs.arguments(self.file, workdir, {**given, **constant}, self.shared)
        return sweep_runs.Run(name=sweep_runs.COMMON, overrides=constant, config=full_config, workdir=workdir, arguments=arguments)

    def ready(self):
        """Whether the shared stages are finished."""
        return self.common is None or all(sweep_runs.done(self.common.workdir, s, self.common.config) for s in self.shared)

    def left(self):
        """The runs that are not finished."""
        return [run for run in self.runs if not run.finished()]

    def print_commands(self, launcher):
        """Print the unfinished runs as shell commands."""
        start = shlex.split(launcher) or ["python", *self.main[1:]]
        waiting = ([] if self.ready() else [self.common]) + self.left()
        for run in self.runs:
            if run not in waiting:
                print(f"# finished: {run.name}")
        for run in waiting:
            print(shlex.join([*start, *run.arguments, *self._remake]))

    def run(self, parallel, say):
        """Run the unfinished runs here, `parallel` at a time; returns the exit code."""
        with held(self.root):
            if not self.ready():
                if self.is_handed_out(self.common, say):
                    return 1
                self._run_here([self.common], 1, say)
                if not self.ready():
                    say(f"the runs wait for {', '.join(self.shared)}, which they share: mend that, and give the same command")
                    return 1
            waiting = [run for run in self.left() if not self.is_handed_out(run, say)]
            for run in waiting:
                sweep_runs.link(run, self.shared, self.root / sweep_runs.COMMON)
            failed = [name for name, code in self._run_here(waiting, parallel, say).items() if code]
        left = self.left()
        say(
            f"{len(self.runs) - len(left)} of {len(self.runs)} runs finished" + (f"; failed: {', '.join(failed)}" if failed else "")
        )
        return 1 if left else 0

    def _run_here(self, runs, parallel, say):
        jobs = [sweep_jobs.Job(run.name, [*self.main, *run.arguments, *self._remake], run.workdir) for run in runs]
        return sweep_jobs.run(jobs, parallel, say)

    def hand_out(self, launcher, say):
        """Give the unfinished runs to a launcher, one command after the other; returns the exit code."""
        start, failed = shlex.split(launcher), []
        with held(self.root):
            if not self.ready() and not self.is_handed_out(self.common, say):
                failed += self._hand(self.common, start, say)
            if not self.ready():
                directory = self.common.workdir
                say(f"{len(self.left())} runs wait for what they share, in {directory}: give the same command when that is done")
                return 1
            for run in self.left():
                if not self.is_handed_out(run, say):
                    sweep_runs.link(run, self.shared, self.root / sweep_runs.COMMON)
                    failed += self._hand(run, start, say)
        if failed:
            say(f"the launcher refused {', '.join(failed)}")
        return 1 if failed else 0

    def _hand(self, run, start, say):
        from tsdfm_jax.storage import atomic

        run.workdir.mkdir(parents=True, exist_ok=True)
        command = [*start, *run.arguments, *self._remake]
        handed_out_file = run.workdir / HANDED_OUT
        atomic.overwrite(
            handed_out_file, atomic.json_text({"command": command, "at": time.strftime("%Y-%m-%d %H:%M:%S")}, indent=1)
        )
        code = 1
        try:
            code = sweep_jobs.run([sweep_jobs.Job(run.name, command, None)], 1, say)[run.name]
        finally:
            if code:
                handed_out_file.unlink(missing_ok=True)
        return [run.name] if code else []

    def is_handed_out(self, run, say):
        """Whether a run was given to a launcher before and may still be running; reports it."""
        handed_out_file = run.workdir / HANDED_OUT
        if handed_out_file.exists():
            say(f"{run.name} was handed out and is not finished: wait for it, or delete {handed_out_file} to start it again")
        return handed_out_file.exists()


def held(root, module="launch.sweep"):
    """Hold the directory of a sweep or a study while it runs; its runs hold their own directories, and outlive it if it is killed."""
    return lock.held(root, shlex.join(["python", "-m", module, *sys.argv[1:]]))


def read_hyper(file):
    """Call get_hyper of a config file; ValueError if it has none."""
    path, _, argument = file.partition(":")
    spec = importlib.util.spec_from_file_location("swept", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_hyper"):
        raise ValueError(f"{path} has no get_hyper(hyper): take one that has, such as configs/sweeps/shaping.py")
    return module.get_hyper(hyper, argument) if argument else module.get_hyper(hyper)

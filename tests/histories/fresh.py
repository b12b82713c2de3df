"""Runs of a state in a directory of their own, made once and kept: what every history must come to."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil

import filelock

from tests.histories import mini, outcome
from tsdfm_jax import main
from tsdfm_jax.storage import atomic

ROOT = pathlib.Path(__file__).parents[2]


def code_hash():
    """A short hash of all that a run is made by, so that no run of older code is taken for a fresh one."""
    digest = hashlib.sha256()
    tests = [ROOT / "tests/published_models.py", *(pathlib.Path(module.__file__) for module in (mini, outcome))]
    for file in sorted([*ROOT.glob("tsdfm_jax/**/*.py"), ROOT / "configs/base.py", *tests]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


class Fresh:
    """Fresh runs below a directory, which several processes may share."""

    def __init__(self, cache):
        self._directory = pathlib.Path(cache).absolute() / "fresh" / code_hash()
        self._directory.mkdir(parents=True, exist_ok=True)
        self.made = 0

    def directory(self, state):
        """The directory with `input` and the finished work directory `W` of a state."""
        home = self._home(state)
        with filelock.FileLock(f"{home}.lock"):
            if not home.exists():
                self._make(state, home).rename(home)
        return home

    def outcome(self, state):
        """What the fresh run of a state left, see outcome.read; the run itself is not kept."""
        home = self._home(state)
        with filelock.FileLock(f"{home}.lock"):
            if not home.with_suffix(".json").exists():
                shutil.rmtree(self._make(state, home))
        return json.loads(home.with_suffix(".json").read_text())

    def _home(self, state):
        return self._directory / hashlib.sha256(json.dumps(mini.essence(state), sort_keys=True).encode()).hexdigest()[:16]

    def _make(self, state, home):
        """Run a state in a new directory, and note what it left; returns the directory."""
        draft = home.with_name(f"{home.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        mini.write_inputs(draft / "input", state)
        with contextlib.chdir(draft):
            main.run(mini.get_config(state), pathlib.Path("W"))
        atomic.overwrite(home.with_suffix(".json"), json.dumps(outcome.read(draft / "W")))
        self.made += 1
        return draft

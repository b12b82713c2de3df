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
        name = hashlib.sha256(json.dumps(mini.essence(state), sort_keys=True).encode()).hexdigest()[:16]
        home = self._directory / name
        with filelock.FileLock(f"{home}.lock"):
            if not home.exists():
                self._make(state, home)
        return home

    def outcome(self, state):
        """What the fresh run of a state left; see outcome.read."""
        return json.loads((self.directory(state) / "outcome.json").read_text())

    def _make(self, state, home):
        draft = home.with_name(f"{home.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        mini.write_inputs(draft / "input", state)
        with contextlib.chdir(draft):
            main.run(mini.get_config(state), pathlib.Path("W"))
        found = outcome.read(draft / "W")
        (draft / "outcome.json").write_text(json.dumps(found))
        draft.rename(home)
        self.made += 1

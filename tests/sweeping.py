"""A sweep of the tiny config with a stub for main: for tests of the sweep."""

import json
import os
import pathlib
import subprocess
import sys
import time

from tests import tiny
from tsdfm_jax.experiments.sweep import hyper, plan as sweep_plan
from tsdfm_jax.workspace import graph

ROOT = pathlib.Path(__file__).parent.parent
STUB = [sys.executable, str(ROOT / "tests/stub_main.py")]


def make(root, entries, main=None, given=None):
    """A sweep of the tiny config that runs `main`, the stub by default."""
    root.mkdir(exist_ok=True)
    file = root / "swept.py"
    file.write_text(f"from tests import tiny\nget_config = tiny.get_config\nget_hyper = lambda hyper: {entries!r}\n")
    config = tiny.get_config()
    config.update_from_flattened_dict(given or {})
    made = sweep_plan.Sweep(str(file), config, given or {}, root, main=main or STUB)
    control(root, made)
    return made


def control(root, made, **what):
    """Write control.json, which tests/stub_main.py reads."""
    marks = {stage: graph.fingerprint(made.common.config, stage) for stage in made.shared}
    (root / "control.json").write_text(json.dumps({"fingerprints": marks, **what}))


def log(root):
    """What the stubs did, in order: (run, "begins", "saved" or "ends")."""
    file = root / "log"
    return [tuple(json.loads(line)[:2]) for line in file.read_text().splitlines()] if file.exists() else []


class Said(list):
    """A list that collects the sweep's lines."""

    def __call__(self, line, ended=0):
        self.append(line)


TWO = hyper.sweep("shaping.candidates", [2, 4])


# The sweep's own command line, with the stub in place of main.
DRIVER = f"""
import sys
from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.sweep import command, plan
plan.MAIN = {STUB!r}
command_line.start(command)
"""


def start(root, *flags, **env):
    """Start the command line in its own session."""
    command = [sys.executable, "-c", DRIVER, f"--config={root / 'swept.py'}", f"--workdir={root}", *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(root, number, what):
    """Return when `number` stubs have logged `what`; AssertionError after 60 s."""
    deadline = time.monotonic() + 60
    while sum(event == what for _, event in log(root)) < number:
        assert time.monotonic() < deadline, log(root)
        time.sleep(0.02)

"""A study of the tiny config, for the tests of tsdfm_jax/experiments/study."""

import pathlib

from tests import tiny
from tsdfm_jax.experiments.study import runs as study_runs


def study(root=pathlib.Path("runs"), **changes):
    """A study with the single seed 0."""
    return study_runs.Study(file="tests/tiny.py", config=tiny.changed(**changes), given={}, root=root, seeds=(0,))

"""A study of the tiny config, for the tests of launch/study*.py."""

import pathlib

from launch import study_runs
from tests import tiny


def study(root=pathlib.Path("runs"), **changes):
    """A study whose one seed is 0."""
    return study_runs.Study(file="tests/tiny.py", config=tiny.changed(**changes), given={}, root=root, seeds=(0,))

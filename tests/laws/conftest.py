"""The figures that the laws measure, and where they are written."""

import json
import pathlib

import pytest

FIGURES = {}


@pytest.fixture
def figures():
    """A dictionary that a law adds what it measured to, by name; plain JSON."""
    return FIGURES


def pytest_sessionfinish(session, exitstatus):
    file = session.config.getoption("--write-laws")
    if file and exitstatus == 0:
        pathlib.Path(file).write_text(json.dumps(dict(sorted(FIGURES.items())), indent=1) + "\n")

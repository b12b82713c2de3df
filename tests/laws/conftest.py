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
        path = pathlib.Path(file)
        before = json.loads(path.read_text()) if path.exists() else {}  # of laws that this run left out
        merged = {name: before.get(name, {}) | found for name, found in FIGURES.items()}
        path.write_text(json.dumps(dict(sorted((before | merged).items())), indent=1) + "\n")

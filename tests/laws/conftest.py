"""The numbers that the laws measure, and the file that they are written to."""

import json
import pathlib

import pytest

FIGURES = {}


@pytest.fixture
def figures():
    """A dictionary, plain JSON, to which a law adds its measurements by name."""
    return FIGURES


def pytest_sessionfinish(session, exitstatus):
    file = session.config.getoption("--write-laws")
    if file and exitstatus == 0:
        path = pathlib.Path(file)
        before = json.loads(path.read_text()) if path.exists() else {}  # numbers of laws that this run did not measure
        merged = {name: before.get(name, {}) | found for name, found in FIGURES.items()}
        path.write_text(json.dumps(dict(sorted((before | merged).items())), indent=1) + "\n")

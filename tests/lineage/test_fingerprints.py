"""A work directory of an earlier commit goes on: what its stages were begun with is still what the configs say."""

import hashlib
import importlib
import json
import pathlib

import pytest

from tsdfm_jax.workspace import graph
from tsdfm_jax.workspace.tsdfm_artefacts import KEYS

# Made by commit 7b2c5b6, before the package had rooms: of each config the hash of every stage's fingerprint, and of config.json.
KEPT = json.loads((pathlib.Path(__file__).parent / "fingerprints.json").read_text())


def short(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", KEPT)
def test_fingerprints_are_those_of_the_commit_before_the_rooms(name):
    """Every stage of every config has the fingerprint that it had, so that no finished stage is refused or made again."""
    module, _, argument = name.partition(":")
    config = importlib.import_module(module).get_config(*([argument] if argument else []))
    found = {stage: short(json.dumps(graph.fingerprint(config, stage), sort_keys=True)) for stage in KEYS}
    assert found == {stage: mark for stage, mark in KEPT[name].items() if stage != "config.json"}  # which has new keys since

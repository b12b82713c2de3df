"""The hash of what others read of a finished artefact, from its figures and manifests; times are not in it."""

import json
import pathlib

from tsdfm_jax.config import methods
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.storage import atomic

FILES = {"evaluate": "rows.json", "report": "report.json"}


def of(config, directory: pathlib.Path, stage: str, figures: dict) -> str:
    """The content of an artefact of a stage in `directory`. Raises OSError or ValueError where a part of it is not readable."""
    if stage in FILES:
        return atomic.sha256(directory / FILES[stage])
    own = methods.of(config).load("artefacts").CONTENTS.get(stage)
    return own(directory, figures) if own else figures["hash"]


def of_records(directory: pathlib.Path) -> str:
    """The content of sets of records, each in a folder of `directory`: their shards."""
    manifests = {file.parent.name: json.loads(file.read_text()) for file in directory.glob("*/manifest.json")}
    return digest({name: shards(manifest["shards"]) for name, manifest in manifests.items()})


def shards(entries):
    """What of a manifest's shards their content is."""
    return [[entry["name"], entry["sha256"]] for entry in entries]

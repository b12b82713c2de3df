"""The hash of what others read of a finished artefact, from its figures and manifests; times are not in it."""

import json
import pathlib

from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.storage import atomic


def of(directory: pathlib.Path, stage: str, figures: dict) -> str:
    """The content of an artefact of a stage in `directory`. Raises OSError or ValueError where a part of it is not readable."""
    if stage == "data":
        return of_windows(directory)
    if stage == "trajectories":
        return digest(
            {kind.parent.name: _shards(json.loads(kind.read_text())["shards"]) for kind in directory.glob("*/manifest.json")}
        )
    if stage == "judges":
        return digest({name: judge["hash"] for name, judge in figures["judges"].items()})
    if stage == "compass":
        return digest([figures["kind"], figures.get("hash")])
    if stage in ("evaluate", "report"):
        return atomic.sha256(directory / {"evaluate": "rows.json", "report": "report.json"}[stage])
    return figures["hash"]


def of_windows(directory):
    """The content of prepared text: its shards and its lexicon."""
    manifest = json.loads((directory / "manifest.json").read_text())
    splits = {name: [_shards(split["shards"]), split["tokens"], split["bytes"]] for name, split in manifest["splits"].items()}
    return digest([splits, manifest["lexicon"]["sha256"]])


def _shards(entries):
    return [[entry["name"], entry["sha256"]] for entry in entries]

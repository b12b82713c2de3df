"""A stage's records on disk: what it began with, what it finished with, and what its result is made of.

Two files stand in an artefact's directory: fingerprint.json from the beginning, done.json once it is whole. Both hold

  {"fingerprint": {config key: value}, "identity": …, "made_of": {"sources", "additions", "figure_keys", "inputs", "figures_of"}}

where an input is [its identity, the hash of its content, its keys]. done.json also has the artefact's own `content`, its `figures`, and
`files`, the stamps of its files. Those of an earlier version of the code have a fingerprint and no identity.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from tsdfm_jax.lineage import stamps
from tsdfm_jax.lineage.artefact import Artefact
from tsdfm_jax.storage import atomic

DONE = "done.json"
FINGERPRINT = "fingerprint.json"
SECONDS = "seconds.json"  # seconds that the stage has run so far, and how many of them went into compiling
OWN = (DONE, FINGERPRINT, SECONDS)
UNCOUNTED = ("checkpoints", "checkpoints.damaged")  # what is needed only while the artefact is made


def made_of(artefact: Artefact, contents: Mapping[str, str]) -> dict[str, Any]:
    """The record of an artefact that is being made; `contents` are the hashes of its inputs' contents, by name."""
    with_contents = lambda inputs: {name: [one.identity, contents[name], one.keys] for name, one in inputs.items()}
    about = {"sources": artefact.sources, "additions": artefact.additions, "figure_keys": artefact.figure_keys}
    about |= {"inputs": with_contents(artefact.inputs), "figures_of": with_contents(artefact.figures_of)}
    return json.loads(json.dumps({"fingerprint": artefact.keys, "identity": artefact.identity, "made_of": about}))


def begin(directory: pathlib.Path, record: dict[str, Any]) -> None:
    """Make an artefact's directory and note what it begins with."""
    directory.mkdir(parents=True, exist_ok=True)
    if atomic.read_if_sealed(directory / FINGERPRINT) != record:
        atomic.write_sealed(directory / FINGERPRINT, record)


def finish(
    root: pathlib.Path,
    name: str,
    record: Mapping[str, Any],
    figures: Mapping[str, Any],
    content: str,
    more_files: Iterable[str] = (),
) -> None:
    """Mark the artefact `name` below `root` as whole; see `finished`."""
    atomic.write_sealed(root / name / DONE, finished(root, name, record, figures, content, more_files))


def finished(root, name, record, figures, content, more_files=()) -> dict[str, Any]:
    """What done.json says of the artefact `name` below `root`; `content` is the hash of what others read of it.

    Its files are those of its directory and `more_files`, names below `root`. Reads every byte of them.
    """
    files = [f"{name}/{file}" for file in owned(root / name)]
    return {**record, "figures": dict(figures), "content": content, "files": stamps.take(root, [*files, *more_files])}


def owned(directory: pathlib.Path) -> list[str]:
    """The names of the files that make up an artefact, below its directory."""
    names = []
    for path, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if name not in UNCOUNTED]
        here = pathlib.Path(path).relative_to(directory)
        names += [(here / name).as_posix() for name in files if name not in OWN and not name.endswith(".tmp")]
    return names


def restamp(directory: pathlib.Path, record: dict[str, Any]) -> None:
    """Write a finished record again, with new times of files that were copied or touched."""
    atomic.write_sealed(directory / DONE, {key: value for key, value in record.items() if key != "sha256"})


def done(directory: pathlib.Path | str) -> dict[str, Any] | None:
    """A finished artefact's done.json; None if it is unfinished, or if that file is damaged."""
    file = pathlib.Path(directory) / DONE
    record = _read(file)
    if record is None or not isinstance(record.get("figures"), dict) or not isinstance(record.get("fingerprint"), dict):
        return None
    return record if "identity" not in record or atomic.read_if_sealed(file) else None


def begun(directory: pathlib.Path | str) -> dict[str, Any] | None:
    """What an unfinished artefact was begun with; None if nothing is made yet, so that a mistyped key binds nobody."""
    directory = pathlib.Path(directory)
    try:
        made = {file.name for file in directory.iterdir()} - set(OWN)
    except OSError:
        return None
    record = _read(directory / FINGERPRINT) if made else None
    if record is None or "made_of" not in record:
        return record and {"fingerprint": record}
    return atomic.read_if_sealed(directory / FINGERPRINT) or None


def require(directory: pathlib.Path | str, stage_name: str) -> dict[str, Any]:
    """Return the numbers of a finished artefact; raise ValueError if it is unfinished."""
    finished = done(directory)
    if finished is None:
        raise ValueError(f"{directory} is unfinished: run --stage={stage_name} first")
    return finished["figures"]


def _read(path):
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None

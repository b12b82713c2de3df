"""What a run reads from outside its work directory, known by its content: what a method reads, its module of artefacts says."""

import pathlib

from tsdfm_jax.config import methods
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import metrics
from tsdfm_jax.storage import places

LARGE = 1 << 30  # bytes; hashing more than this shows a progress bar


def of(config, stage, memory, name):
    """{what: identity} of what the artefact `name` of a stage reads from outside; the identity of what is not there is None.

    `memory` is a stamps.Memory. Raises FileNotFoundError where what is to be read is not there.
    """
    return methods.of(config).load("artefacts").sources(config, stage, memory, name)


def hashes(files, memory):
    """{path: sha256}, with a progress bar where much is to be read."""
    to_read = memory.unread_bytes(files)
    if to_read < LARGE:
        return {str(file): memory.sha256(file) for file in files}
    found = {}
    with metrics.progress("hashing the files", to_read, "byte") as bar:
        for file in files:
            size = memory.unread_bytes([file])
            found[str(file)] = memory.sha256(file)
            bar.advance(size)
    memory.save()
    return found


def of_file(key, file, memory):
    """A file by its content."""
    return {key: hash_of(places.expanded(file), memory)}


def of_model(key, directory, memory):
    """A model directory by its config.json, which holds the hash of its weights and of its tokenizer."""
    return of_file(key, places.expanded(directory) / "config.json", memory)


def hash_of(path, memory):
    """The hash of a file; None if there is none."""
    return memory.sha256(path) if path.is_file() else None


def of_folder(directory, patterns, memory):
    """A hash of the files of a folder that match any of the patterns, by name; None if there are none."""
    files = sorted({file for pattern in patterns for file in pathlib.Path(directory).glob(pattern) if file.is_file()})
    return digest({file.name: memory.sha256(file) for file in files}) if files else None

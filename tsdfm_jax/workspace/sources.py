"""What a run reads from outside its work directory, known by its content: the corpus, given models, further judges and texts."""

import pathlib

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus, hub, tensors
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import metrics
from tsdfm_jax.storage import places

JUDGED = ("evaluate.text ", "evaluate.pretrained ")  # what `judged` calls its texts and judges
LARGE = 1 << 30  # bytes; hashing more than this shows a progress bar


def of(config, stage, memory, name):
    """{what: identity} of what the artefact `name` of a stage reads from outside; the identity of what is not there is None.

    Raises FileNotFoundError where a corpus is not there.
    """
    if stage == "tokenizer" and config.tokenizer.path:
        return given_file("tokenizer.path", config.tokenizer.path, memory)
    if stage in ("tokenizer", "data"):
        return text(config, memory)
    if stage == "teacher" and config.teacher.path:
        return given_model("teacher.path", config.teacher.path, memory)
    if stage == "student" and config.student.path and name.endswith("/round_0"):
        return given_model("student.path", config.student.path, memory)
    return judged(config, memory) if stage == "evaluate" else {}


def text(config, memory):
    """The corpus: a hash of each file, or the version of the package."""
    source = settings.corpus_config(config)
    if not source.files:
        return {"package": f"{source.package} {corpus.version(source.package)}"}
    found = corpus.files(source)
    local = [file for file in found if not isinstance(file, hub.RemoteFile)]
    remote = {str(file): f"{file.size} bytes" for file in found if isinstance(file, hub.RemoteFile)}
    return {"files": {**remote, **hashes(local, memory)}}


def hashes(files, memory):
    """{path: sha256}, with a progress bar where much is to be read."""
    to_read = memory.unread_bytes(files)
    if to_read < LARGE:
        return {str(file): memory.sha256(file) for file in files}
    found = {}
    with metrics.progress("hashing the text", to_read, "byte") as bar:
        for file in files:
            size = memory.unread_bytes([file])
            found[str(file)] = memory.sha256(file)
            bar.advance(size)
    memory.save()
    return found


def given_file(key, file, memory):
    """A file by its content."""
    path = places.expanded(file)
    return {key: memory.sha256(path) if path.is_file() else None}


def given_model(key, directory, memory):
    """A model directory by its config.json, which holds the hash of its weights and of its tokenizer."""
    return given_file(key, places.expanded(directory) / "config.json", memory)


def judged(config, memory):
    """{what: identity} of the texts and judges from elsewhere that an evaluation adds; None for a judge that is not here yet."""
    c, found = config.evaluate, {}
    for file in places.split(c.text):
        path = places.expanded(file)
        found[JUDGED[0] + file] = folder(path, ("*.txt",), memory) if path.is_dir() else _of_file(path, memory)
    for name in places.split(c.pretrained):
        directory = hub.on_disk(str(places.expanded(name)), tensors.PATTERNS)
        found[JUDGED[1] + name] = folder(directory, tensors.PATTERNS, memory) if directory else None
    return found


def _of_file(path, memory):
    return memory.sha256(path) if path.is_file() else None


def folder(directory, patterns, memory):
    """A hash of the files of a folder that match any of the patterns, by name; None if there are none."""
    files = sorted({file for pattern in patterns for file in pathlib.Path(directory).glob(pattern) if file.is_file()})
    return digest({file.name: memory.sha256(file) for file in files}) if files else None

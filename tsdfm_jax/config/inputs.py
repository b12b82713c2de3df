"""The files that a config of TS-DFM names: whether they are there and may be read, before a run writes anything."""

import pathlib

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.storage import places


def check(config, workdir, stages):
    """Check what the unfinished ones of these stages will read.

    Raises ValueError or FileNotFoundError, one line with the key, for a file that is missing, a directory, a link to nothing or
    unreadable.
    """
    begins = lambda stage: stage in stages and bookkeeping.done(pathlib.Path(workdir) / stage) is None
    if begins("tokenizer") or begins("data"):
        corpus.check(settings.corpus_config(config))
    if begins("tokenizer") and config.tokenizer.path:
        places.require_readable(config.tokenizer.path, "tokenizer.path")
    if "sample" in stages and config.sample.prompts:
        places.require_readable(config.sample.prompts, "sample.prompts")
    if "evaluate" in stages:
        for name in texts(config).values():
            check_text(name)
        for name in places.split(config.evaluate.pretrained):
            check_judge(name)


def texts(config):
    """{name of the set: file or folder} of `evaluate.text`, as it was typed; ValueError for two of one name."""
    files = {}
    for name in places.split(config.evaluate.text):
        if files.setdefault(stem := pathlib.Path(name).stem, name) != name:
            raise ValueError(f"evaluate.text {files[stem]} and {name} would both be called {stem}: rename one")
    return files


def check_text(name):
    """Check a file of texts, or a folder of .txt files."""
    place = places.expanded(name)
    if place.is_dir() and any(place.glob("*.txt")):
        return
    if place.is_dir() or not (place.exists() or place.is_symlink()):
        raise FileNotFoundError(f"evaluate.text={name} is no .jsonl file and no folder of .txt files")
    places.require_readable(name, "evaluate.text")


def check_judge(name):
    """Check a judge that is a directory; a name without a slash at its beginning may be one on the hub."""
    place = places.expanded(name)
    if not place.is_dir() and (place.exists() or place.is_symlink() or name.startswith(("/", "~", "."))):
        raise FileNotFoundError(f"evaluate.pretrained={name} is no directory of a model: give one, or a name on the hub")

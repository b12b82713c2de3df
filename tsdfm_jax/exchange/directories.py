"""What every directory of a model is, whatever its method: config.json, model.safetensors, further files, and README.md, its card.

It is written whole or not at all. Weights have names as in memory ("blocks/qw/kernel"), and config.json holds their content hash.
An About is the content of its config.json as a dataclass with at least `directory`, `kind`, `name`, `dtype` (of the stored weights)
and `hash` (checkpoint.tree_hash of the weights in float32, after any rounding to `dtype`).
"""

import dataclasses
import math
import os
import shutil

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tsdfm_jax.data import tensors as stored
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.storage import atomic, checksums, places

FORMAT, VERSION = "tsdfm_jax model", 1
CONFIG, CARD = "config.json", "README.md"
DTYPES = ("float32", "bfloat16")
OF_IMAGES = ("ntm", "flow_matching")  # kinds of models of images; the others are of text
REMEDY = "make or download it again"


def is_model(directory):
    """Whether a directory holds (or should hold) a single model, not a run."""
    return (places.expanded(directory) / stored.SINGLE).is_file() or _about(directory).get("format") is not None


def kind(directory):
    """The kind of the model in a directory, as its config.json says it; None where that says nothing."""
    return _about(directory).get("kind")


def _about(directory):
    return atomic.read_json(places.expanded(directory) / CONFIG)


def check_free(directory, force):
    """Raise ValueError unless a model may be written there: the directory is absent, empty or, with `force`, holds a model."""
    directory = places.expanded(directory)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if _about(directory).get("format") != FORMAT:
        raise ValueError(f"--out={directory} is there already, and no model: give another --out")
    if not force:
        raise ValueError(f"--out={directory} holds a model already: give another --out, or --force to replace it")


def write(about, params, body, card, *, more=lambda draft: None, force=False):
    """Write the directory `about.directory`, whole or not at all; returns `about` with its hash.

    `params` is {"blocks/qw/kernel": float32 numpy array}, `body(about)` the object of config.json beside format and version,
    `card(about)` the text of README.md, `more(draft)` writes further files. Raises ValueError as `check_free` does, OSError if the
    disk is full.
    """
    directory = places.expanded(about.directory)
    check_free(directory, force)
    arrays = {name: np.ascontiguousarray(value, jnp.dtype(about.dtype)) for name, value in params.items()}
    size = sum(value.nbytes for value in arrays.values())
    checksums.require_room(directory, size, f"model {directory}")
    about = dataclasses.replace(about, hash=checkpoint.tree_hash({n: np.asarray(v, np.float32) for n, v in arrays.items()}))
    draft = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    try:
        with checksums.writing(f"model {directory}"):
            more(draft)
            _fill(draft, arrays, {"format": FORMAT, "version": VERSION, **body(about)}, card(about))
        _replace(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return about


def _fill(draft, arrays, body, card):
    from safetensors import numpy as safetensors

    safetensors.save_file(arrays, draft / stored.SINGLE, metadata={"format": FORMAT})
    (draft / CARD).write_text(card)
    shutil.copymode(draft / CARD, draft / stored.SINGLE)  # safetensors makes its file unreadable for other users
    (draft / CONFIG).write_text(atomic.json_text(atomic.finite(body), indent=1) + "\n")
    for path in draft.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _replace(draft, directory):
    """Move a finished draft to its place; a directory that is there goes only once the draft is in place."""
    old = draft.with_suffix(".old")
    if directory.exists():
        directory.rename(old)
    try:
        draft.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_body(directory):
    """(its directory, config.json's path, the object in it). Raises ValueError, one line, if it is not one of a known version."""
    directory = places.expanded(directory)
    file = directory / CONFIG
    if not directory.is_dir():
        raise ValueError(f"no directory {str(directory)!r}: give one that launch.export or launch.import_fsdfm wrote")
    body = stored.read_json(file)
    if body.get("format") != FORMAT:
        raise ValueError(f"{file} is not of a model: give a directory that launch.export or launch.import_fsdfm wrote")
    if body.get("version") != VERSION:
        raise ValueError(f"{file} is of version {body.get('version')!r}, and this code reads {VERSION}: update tsdfm_jax")
    return directory, file, body


def get(file, body, key, kind, least=1):
    """A value of config.json; ValueError, one line, where it is missing, of another type, not finite, or an int below `least`."""
    value = body.get(key)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is int and not least <= value < 2**31) or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{file}: {key} {_short(value)} is not a {kind.__name__} that makes sense: {REMEDY}")
    return value


def choose(file, key, value, allowed):
    """A value of config.json that must be one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{file}: {key} {_short(value)} is not one of {', '.join(allowed)}: {REMEDY}")
    return value


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def read(about, abstract):
    """The weights of a directory in float32, each array read straight into the sharding of its leaf in the tree `abstract`.

    Raises ValueError, one line, for what is missing, damaged or differs from config.json.
    """
    files = stored.Tensors(about.directory)
    leaves = traverse_util.flatten_dict(abstract, sep="/")
    _match(about, files, leaves)
    put = lambda name, leaf: meshes.read_parts(leaf, lambda index: files.read(name, index).astype(np.float32))
    params = traverse_util.unflatten_dict({name: put(name, leaf) for name, leaf in leaves.items()}, sep="/")
    if (digest := checkpoint.tree_hash(params)) != about.hash:
        raise ValueError(
            f"{about.directory / stored.SINGLE} has content hash {digest[:12]}, but {CONFIG} says {about.hash[:12]}: "
            f"it was damaged or changed, {REMEDY}"
        )
    return params


def _match(about, files, leaves):
    file, config = about.directory / stored.SINGLE, about.directory / CONFIG
    for name in sorted(set(files.shapes) - set(leaves)):
        raise ValueError(f"{file} holds '{name}', which a {about.kind} of {config} has not: they are not of one model, {REMEDY}")
    if missing := sorted(set(leaves) - set(files.shapes)):
        raise ValueError(f"{file} lacks '{missing[0]}' ({len(missing)} of {len(leaves)} names missing): {REMEDY}")
    for name, leaf in leaves.items():
        if files.shapes[name] != leaf.shape:
            raise ValueError(f"{file}: '{name}' has shape {files.shapes[name]}, but {config} says {leaf.shape}: {REMEDY}")


def check_name(about, model):
    """Raise ValueError unless `model` is None, the name or the kind of the model in a directory."""
    if model not in (None, about.name, about.kind):
        raise ValueError(f"{about.directory} holds {about.name}, not {model!r}: leave model out, or give another directory")

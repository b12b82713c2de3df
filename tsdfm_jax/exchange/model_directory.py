"""A model in a directory of its own: config.json, model.safetensors, the tokenizer's file and README.md, the model card.

It needs no run: `tsdfm_jax.load` opens it, and a run can use it as its teacher or start its students from it. Weights have
the same names as in memory ("blocks/qw/kernel"), and config.json holds their content hash.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tsdfm_jax.data import tensors as stored, tokenizer as tokenizers
from tsdfm_jax.flow import jump as jumps, path as paths
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.storage import atomic, checksums, places

FORMAT, VERSION = "tsdfm_jax model", 1
CONFIG, CARD = "config.json", "README.md"
KINDS = ("teacher", "student")
DTYPES = ("float32", "bfloat16")
FLOW = {"source": "source", "exponent": "exponent", "symbols": "text_vocab"}  # name in config.json -> field of Path
REMEDY = "make or download it again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The contents of a model's config.json.

    Attributes:
      directory: the model's directory.
      kind: teacher or student.
      name: its name, such as student_shaped.
      network: the static shape of its network.
      length: L, tokens of its longest text.
      path: the path that it was trained on.
      jump: the jump of its sampler.
      tokenizer: content hash of its tokenizer, None if it has none.
      dtype: type of the stored weights, float32 or bfloat16.
      hash: checkpoint.tree_hash of the weights in float32, after any rounding to `dtype`.
      origin: how it was made, as JSON.
    """

    directory: pathlib.Path
    kind: str
    name: str
    network: transformer.TransformerConfig
    length: int
    path: paths.Path
    jump: str
    tokenizer: str | None
    dtype: str = "float32"
    hash: str = ""
    origin: dict

    def __str__(self):
        return f"{self.name} of {self.directory}"


def is_model(directory):
    """Whether a directory holds (or should hold) a single model, not a run."""
    return (places.expanded(directory) / stored.SINGLE).is_file() or _format(directory) is not None


def _format(directory):
    try:
        return json.loads((places.expanded(directory) / CONFIG).read_bytes()).get("format")
    except (OSError, ValueError, AttributeError):
        return None


def check_free(directory, force):
    """Raise ValueError unless a model may be written there: the directory is absent, empty or, with `force`, holds a model."""
    directory = places.expanded(directory)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if _format(directory) != FORMAT:
        raise ValueError(f"--out={directory} is there already, and no model: give another --out")
    if not force:
        raise ValueError(f"--out={directory} holds a model already: give another --out, or --force to replace it")


def write(about, params, card, *, tokenizer=None, force=False):
    """Write the directory `about.directory`, whole or not at all; returns `about` with its hash.

    `params` is {"blocks/qw/kernel": float32 numpy array}, `card(about)` the text of README.md, `tokenizer` the file of a
    tokenizer or None. Raises ValueError as `check_free` does, OSError if the disk is full.
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
            _fill(draft, about, arrays, card, tokenizer)
        _replace(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return about


def _fill(draft, about, arrays, card, tokenizer):
    from safetensors import numpy as safetensors

    if tokenizer is not None:
        tokenizers.adopt(str(tokenizer), draft)
    safetensors.save_file(arrays, draft / stored.SINGLE, metadata={"format": FORMAT})
    (draft / CARD).write_text(card(about))
    shutil.copymode(draft / CARD, draft / stored.SINGLE)  # safetensors makes its file unreadable for other users
    (draft / CONFIG).write_text(atomic.json_text(atomic.finite(_body(about)), indent=1) + "\n")
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


def _body(about):
    network = dataclasses.asdict(about.network)
    network.pop("step_conditioned")  # `kind` implies it
    network.pop("attention")  # depends on the machine that it runs on
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": about.kind,
        "name": about.name,
        "network": network,
        "length": about.length,
        "flow": {name: getattr(about.path, field) for name, field in FLOW.items()} | {"jump": about.jump},
        "weights": {"dtype": about.dtype, "hash": about.hash},
        "tokenizer": about.tokenizer,
        "origin": about.origin,
    }


def read_about(directory):
    """The About of a directory, from its config.json alone, without a look at weights or tokenizer.

    Raises ValueError, one line, if there is no such file, for an unknown format or version, and for missing or bad values.
    """
    directory = places.expanded(directory)
    file = directory / CONFIG
    if not directory.is_dir():
        raise ValueError(f"no directory {str(directory)!r}: give one that launch.export or launch.import_fsdfm wrote")
    body = stored.read_json(file)
    if body.get("format") != FORMAT:
        raise ValueError(f"{file} is not of a model: give a directory that launch.export or launch.import_fsdfm wrote")
    if body.get("version") != VERSION:
        raise ValueError(f"{file} is of version {body.get('version')!r}, and this code reads {VERSION}: update tsdfm_jax")
    get = functools.partial(_get, file)
    flow, weights = get(body, "flow", dict), get(body, "weights", dict)
    kind = _choose(file, "kind", body.get("kind"), KINDS)
    try:
        kinds = {"source": str, "exponent": float, "symbols": int}
        path = paths.Path(**{FLOW[name]: get(flow, name, kind) for name, kind in kinds.items()})
        network = transformer.TransformerConfig(**_fields(file, get(body, "network", dict)), step_conditioned=kind == "student")
        jumps.check(get(flow, "jump", str))
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}") from None
    if network.vocab != path.vocab:
        raise ValueError(
            f"{file}: vocab {network.vocab} is not the {path.vocab} of {path.text_vocab} tokens and source {path.source}: {REMEDY}"
        )
    return About(
        directory=directory,
        kind=kind,
        name=get(body, "name", str),
        network=network,
        length=get(body, "length", int),
        path=path,
        jump=flow["jump"],
        tokenizer=None if body.get("tokenizer") is None else get(body, "tokenizer", str),
        dtype=_choose(file, "dtype", weights.get("dtype"), DTYPES),
        hash=get(weights, "hash", str),
        origin=get(body, "origin", dict),
    )


def _fields(file, network):
    """The fields of a TransformerConfig; ValueError for one that is missing, unknown or of another type."""
    fields = {
        f.name: f.type for f in dataclasses.fields(transformer.TransformerConfig) if f.name not in ("step_conditioned", "attention")
    }
    if extra := sorted(set(network) - set(fields)):
        raise ValueError(f"{file}: network has '{extra[0]}', which is not implemented: update tsdfm_jax")
    return {name: _get(file, network, name, kind) for name, kind in fields.items()}


def _get(file, body, key, kind):
    value = body.get(key)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is int and not 1 <= value < 2**31):
        raise ValueError(f"{file}: {key} {value!r} is not a {kind.__name__} that makes sense: {REMEDY}")
    return value


def _choose(file, key, value, allowed):
    if value not in allowed:
        raise ValueError(f"{file}: {key} {value!r} is not one of {', '.join(allowed)}: {REMEDY}")
    return value


def read(directory, mesh):
    """(About, params) of a directory: weights in float32, each array read straight into its sharding on `mesh`.

    Raises ValueError, one line, for what is missing, damaged or differs from config.json.
    """
    about = read_about(directory)
    files = stored.Tensors(about.directory)
    leaves = traverse_util.flatten_dict(abstract(about.network, mesh), sep="/")
    _match(about, files, leaves)
    put = lambda name, leaf: meshes.read_parts(leaf, lambda index: files.read(name, index).astype(np.float32))
    params = traverse_util.unflatten_dict({name: put(name, leaf) for name, leaf in leaves.items()}, sep="/")
    if (digest := checkpoint.tree_hash(params)) != about.hash:
        raise ValueError(
            f"{about.directory / stored.SINGLE} has content hash {digest[:12]}, but {CONFIG} says {about.hash[:12]}: "
            f"it was damaged or changed, {REMEDY}"
        )
    return about, params


def abstract(network, mesh):
    """The parameters of a network as shapes with their shardings; no parameter depends on the length."""
    return meshes.abstract(mesh, lambda: transformer.init(jax.random.key(0), network, 1))


def _match(about, files, leaves):
    file, config = about.directory / stored.SINGLE, about.directory / CONFIG
    for name in sorted(set(files.shapes) - set(leaves)):
        raise ValueError(f"{file} holds '{name}', which a {about.kind} of {config} has not: they are not of one model, {REMEDY}")
    if missing := sorted(set(leaves) - set(files.shapes)):
        raise ValueError(f"{file} lacks '{missing[0]}' ({len(missing)} of {len(leaves)} names missing): {REMEDY}")
    for name, leaf in leaves.items():
        if files.shapes[name] != leaf.shape:
            raise ValueError(f"{file}: '{name}' has shape {files.shapes[name]}, but {config} says {leaf.shape}: {REMEDY}")


def tokenizer(about):
    """The tokenizer of a model, None if it has none. Raises ValueError if its file is missing, or is another tokenizer."""
    if about.tokenizer is None:
        return None
    try:
        tok = tokenizers.load(about.directory)
    except FileNotFoundError:
        raise ValueError(f"{about.directory} lacks its tokenizer.model or tokenizer.json: {REMEDY}") from None
    if tok.content_hash != about.tokenizer or tok.vocab_size != about.path.text_vocab:
        raise ValueError(
            f"the tokenizer in {about.directory} is {tok.content_hash[:12]} of {tok.vocab_size} tokens, but {CONFIG} says "
            f"{about.tokenizer[:12]} of {about.path.text_vocab}: {REMEDY}"
        )
    return tok

"""A model of text in a directory of its own: what exchange.directories says, and the tokenizer's file.

It needs no run: `tsdfm_jax.load` opens it, and a run can use it as its teacher or start its students from it.
"""

import dataclasses
import functools
import pathlib

import jax

from tsdfm_jax.data import tokenizer as tokenizers
from tsdfm_jax.exchange import directories
from tsdfm_jax.exchange.directories import CONFIG, DTYPES, REMEDY, check_free, is_model
from tsdfm_jax.flow import jump as jumps, path as paths
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as meshes

KINDS = ("teacher", "student")
FLOW = {"source": "source", "exponent": "exponent", "symbols": "text_vocab"}  # name in config.json -> field of Path
__all__ = ["About", "DTYPES", "KINDS", "abstract", "check_free", "is_model", "read", "read_about", "tokenizer", "write"]


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


def write(about, params, card, *, tokenizer=None, force=False):
    """Write the directory `about.directory`; see directories.write. `tokenizer` is the file of a tokenizer, or None."""
    more = lambda draft: tokenizer is None or tokenizers.adopt(str(tokenizer), draft)
    return directories.write(about, params, _body, card, more=more, force=force)


def _body(about):
    network = dataclasses.asdict(about.network)
    network.pop("step_conditioned")  # `kind` implies it
    network.pop("attention")  # depends on the machine that it runs on
    return {
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
    directory, file, body = directories.read_body(directory)
    if body.get("kind") in directories.OF_IMAGES:
        raise ValueError(f"{directory} holds a model of images, {body['kind']}: give the directory of a {' or '.join(KINDS)}")
    kind = directories.choose(file, "kind", body.get("kind"), KINDS)
    get = functools.partial(directories.get, file)
    flow, weights = get(body, "flow", dict), get(body, "weights", dict)
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
        dtype=directories.choose(file, "dtype", weights.get("dtype"), DTYPES),
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
    return {name: directories.get(file, network, name, kind) for name, kind in fields.items()}


def read(directory, mesh):
    """(About, params) of a directory: weights in float32, each array read straight into its sharding on `mesh`.

    Raises ValueError, one line, for what is missing, damaged or differs from config.json.
    """
    about = read_about(directory)
    return about, directories.read(about, abstract(about.network, mesh))


def abstract(network, mesh):
    """The parameters of a network as shapes with their shardings; no parameter depends on the length."""
    return meshes.abstract(mesh, lambda: transformer.init(jax.random.key(0), network, 1))


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

"""A model of images in a directory of its own: what exchange.directories says, with its denoiser and autoencoder among the weights.

config.json says of the networks what normalizing.opening calls `told`. It needs no run: `tsdfm_jax.load` opens it. Time runs from
0 = data to 1 = noise.
"""

import dataclasses
import functools
import pathlib

from flax import traverse_util

from tsdfm_jax.config import ntm_settings, ntm_validation
from tsdfm_jax.exchange import directories
from tsdfm_jax.models import autoencoder as autoencoders
from tsdfm_jax.normalizing import networks, opening, trained
from tsdfm_jax.runtime import checkpoint

NAMES = ("ntm", "ntm_identity", "flow_matching")
LARGEST = 2**14  # height, width, channels, classes' names and steps at most
WIDEST = 2**16  # blocks, widths and heads at most
MODEL = {name: str if name == "dtype" else int for name in opening.MODEL}
AUTOENCODER = {field.name: field.type for field in dataclasses.fields(autoencoders.AutoencoderConfig)}
NO_DENOISER = "the directory holds none: export the model ntm of a run that has one, or take score or none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The contents of a model's config.json.

    Attributes:
      directory: the model's directory.
      kind: ntm, or flow_matching.
      name: ntm, ntm_identity or flow_matching.
      told: what it says of its networks; see normalizing.opening.
      names: the names of its classes.
      denoiser: whether the learned denoiser is there.
      autoencoder: the shape of its autoencoder, None without one.
      dtype, hash: as in exchange.directories; the hash is of all weights.
      origin: how it was made, as JSON.
    """

    directory: pathlib.Path
    kind: str
    name: str
    told: dict
    names: tuple[str, ...]
    denoiser: bool
    autoencoder: autoencoders.AutoencoderConfig | None
    dtype: str = "float32"
    hash: str = ""
    origin: dict

    def __str__(self):
        return f"{self.name} of {self.directory}"


def of_parts(parts, directory, dtype, origin):
    """The About of opened Parts that are to be written to a directory."""
    return About(
        directory=directory,
        kind="flow_matching" if parts.model == "flow_matching" else "ntm",
        name=parts.model,
        told=parts.told,
        names=parts.names,
        denoiser=parts.denoiser is not None,
        autoencoder=parts.autoencoder and parts.autoencoder[0],
        dtype=dtype,
        origin=origin,
    )


def weights(parts):
    """All weights of opened Parts as {"model/predictor/…": array}."""
    tree = {"model": parts.network.params}
    tree |= {"denoiser": parts.denoiser()} if parts.denoiser else {}
    tree |= {"autoencoder": parts.autoencoder[1]} if parts.autoencoder else {}
    return traverse_util.flatten_dict(tree, sep="/")


def write(about, params, card, force=False):
    """Write the directory `about.directory`; see directories.write."""
    return directories.write(about, params, _body, card, force=force)


def _body(about):
    return {
        "kind": about.kind,
        "name": about.name,
        "network": about.told,
        "classes": list(about.names),
        "denoiser": about.denoiser,
        "autoencoder": about.autoencoder and dataclasses.asdict(about.autoencoder),
        "weights": {"dtype": about.dtype, "hash": about.hash},
        "origin": about.origin,
    }


def read_about(directory):
    """The About of a directory, from its config.json alone, without a look at the weights.

    Raises ValueError, one line, if there is no such file, for an unknown format or version, and for missing or bad values.
    """
    directory, file, body = directories.read_body(directory)
    get = functools.partial(directories.get, file)
    stored = get(body, "weights", dict)
    about = About(
        directory=directory,
        kind=directories.choose(file, "kind", body.get("kind"), directories.OF_IMAGES),
        name=directories.choose(file, "name", body.get("name"), NAMES),
        told=_told(file, get(body, "network", dict)),
        names=tuple(_listed(file, body, "classes", str)),
        denoiser=get(body, "denoiser", bool),
        autoencoder=None,
        dtype=directories.choose(file, "dtype", stored.get("dtype"), directories.DTYPES),
        hash=get(stored, "hash", str),
        origin=get(body, "origin", dict),
    )
    try:
        if body.get("autoencoder") is not None:
            shape = get(body, "autoencoder", dict)
            cfg = autoencoders.AutoencoderConfig(**{name: get(shape, name, kind) for name, kind in AUTOENCODER.items()})
            about = dataclasses.replace(about, autoencoder=cfg)
        _check(about)
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}: {directories.REMEDY}") from None
    return about


def _told(file, network):
    """What config.json says of the networks, every value of its type."""
    get = functools.partial(directories.get, file)
    data, model, flows, levels = (get(network, name, dict) for name in ("data", "model", "transporter", "levels"))
    told = {
        "data": {"image": _listed(file, data, "image", int), "patch": get(data, "patch", int)}
        | {name: get(data, name, int, 0) for name in ("classes", "vector")},
        "model": {name: get(model, name, kind, 0 if name == "kv_heads" else 1) for name, kind in MODEL.items()},
        "transporter": {"flows": get(flows, "flows", int, 0), "blocks": get(flows, "blocks", int)}
        | {"map": directories.choose(file, "map", flows.get("map"), ntm_settings.MAPS)},
        "levels": {"steps": _listed(file, levels, "steps", int)} | {name: get(levels, name, float) for name in ("shift", "end")},
        "latents": get(network, "latents", bool),
    }
    return told | {name: get(network, name, float) for name in ("drop", "clip")}


def _listed(file, body, key, kind):
    values = directories.get(file, body, key, list)
    if len(values) > LARGEST:
        raise ValueError(f"{file}: {key} has {len(values)} entries, more than {LARGEST}: {directories.REMEDY}")
    return [directories.get(file, {key: value}, key, kind) for value in values]


def _check(about):
    """Raise ValueError for values that do not fit together."""
    told, data, levels = about.told, about.told["data"], about.told["levels"]
    if len(data["image"]) != 3 or max(data["image"]) > LARGEST or max(levels["steps"], default=1) > LARGEST:
        raise ValueError(f"image {data['image']} and steps {levels['steps']} are not of a model: give [H, W, C] up to {LARGEST}")
    if widest := {name: value for name, value in told["model"].items() if name != "dtype" and value > WIDEST}:
        raise ValueError(f"{widest} is more than any model has: {WIDEST}")
    if bool(levels["steps"]) != (about.kind == "ntm") or (about.kind == "ntm") != (about.name != "flow_matching"):
        raise ValueError(f"kind {about.kind}, name {about.name} and steps {levels['steps']} are not of one model")
    if about.kind == "ntm" and not (0 <= levels["end"] < 1 and abs(levels["shift"]) <= ntm_validation.STEEPEST):
        raise ValueError(f"levels end at {levels['end']} with shift {levels['shift']}, which no model is trained with")
    if not 0 <= told["drop"] <= 1 or not 0 < told["clip"] <= 1:
        raise ValueError(f"drop {told['drop']} and clip {told['clip']} are no shares")
    if len(about.names) not in (0, data["classes"]):
        raise ValueError(f"classes has {len(about.names)} names, and the networks know {data['classes']} classes")
    if about.autoencoder is not None and about.autoencoder.latent_shape != tuple(data["image"]):
        raise ValueError(f"the autoencoder has latents {about.autoencoder.latent_shape}, and the networks see {data['image']}")
    config, shape = opening.settings_of(told)
    networks.predictor(config, shape), networks.flow(config, shape)  # their own checks


def read(about, mesh):
    """The opening.Parts of a directory: weights in float32, each array read straight into its sharding on `mesh`.

    Raises ValueError, one line, for what is missing, damaged or differs from config.json.
    """
    config, shape = opening.settings_of(about.told)
    abstract = {"model": trained.template(config, shape, mesh, about.name)}
    if about.denoiser:
        abstract["denoiser"] = trained.template(config, shape, mesh, "denoiser")
    if about.autoencoder is not None:
        abstract["autoencoder"] = opening.autoencoder_template(about.autoencoder, mesh)
    params = directories.read(about, abstract)
    return opening.Parts(
        title=str(about),
        model=about.name,
        told=about.told,
        config=config,
        shape=shape,
        names=about.names,
        network=trained.Network(params=params["model"], hash=checkpoint.tree_hash(params["model"])),
        denoiser=(lambda: params["denoiser"]) if about.denoiser else None,
        no_denoiser=NO_DENOISER,
        autoencoder=about.autoencoder and (about.autoencoder, params["autoencoder"]),
    )

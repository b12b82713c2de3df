"""Trained models of images, opened with all that they need: of a run by what stands beside their weights, or by such a description.

What a model says of itself is plain JSON, `told`:

  data      {image: [H, W, C], patch, classes, vector}: of what the networks see, images or latents
  model     the shape of the networks: the keys MODEL of the config's section
  transporter {flows, blocks, map}
  levels    {steps, shift, end}: what it was trained with, and the level that trajectories end at; of flow matching no steps
  drop      share of the labels that were hidden in training
  clip      quantile of score denoising
  latents   whether the data are latents that nothing here decodes

Time runs from 0 = data to 1 = noise.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from tsdfm_jax.config import ntm_networks, ntm_settings
from tsdfm_jax.data import image_records
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.models import autoencoder as autoencoders
from tsdfm_jax.normalizing import networks, trained
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import description, jobs
from tsdfm_jax.workspace.ntm_artefacts import LATENTS

MODEL = ("blocks", "width", "heads", "kv_heads", "cond_width", "mlp_ratio", "dtype")
MACHINE = {"remat": "none", "attention": "auto", "unroll": 1}  # how the networks are computed, where nothing says it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """A model with all that it needs.

    Attributes:
      title: its name and where it comes from.
      model: flow_matching, ntm or ntm_identity.
      told: what it says of itself; see the module.
      config: the config of its networks.
      shape: the networks.Shape of what its networks see.
      names: the names of its classes.
      network: its trained.Network.
      denoiser: a function without arguments that gives the weights of the learned denoiser; None without one.
      no_denoiser: why there is none.
      autoencoder: (its AutoencoderConfig, weights), None for models of images.
    """

    title: str
    model: str
    told: dict
    config: ConfigDict
    shape: networks.Shape
    names: tuple[str, ...]
    network: trained.Network
    denoiser: Callable[[], Any] | None
    no_denoiser: str = ""
    autoencoder: tuple[autoencoders.AutoencoderConfig, Any] | None = None

    @property
    def image(self):
        """(H, W, C) of its images, or of latents that nothing decodes."""
        if self.autoencoder is None:
            return self.shape.image
        cfg = self.autoencoder[0]
        return cfg.size, cfg.size, cfg.image_channels


def settings_of(told, machine=MACHINE):
    """(config, networks.Shape) of what a model tells of itself. Raises ValueError for patches that do not divide."""
    levels, data = told["levels"], told["data"]
    config = {
        "model": {**told["model"], **machine},
        "transporter": told["transporter"],
        "ntm": {"steps": tuple(levels["steps"]), "shift": levels["shift"], "t_sample": levels["end"]},
        "denoiser": {"clip": told["clip"]},
    }
    return ConfigDict(config), networks.Shape(**{**data, "image": tuple(data["image"])})


def told_of(config, meta, model):
    """What a network of a run says of itself, by its meta.json, and by the run's config where that does not."""
    about = meta[description.KEY]
    section = config.flow_matching if model == "flow_matching" else config.ntm
    return {
        "data": about["data"],
        "model": {name: about["shape"][name] for name in MODEL},
        "transporter": _transporter(about),
        "levels": about.get("levels", {"steps": [], "shift": 0.0, "end": 0.0}),
        "drop": section.drop,
        "clip": config.denoiser.clip,
        "latents": bool(config.images.latents),
    }


def _transporter(about):
    """The keys of a transporter, by a network's meta.json; of a network without one, of one without flow blocks."""
    if "flow" not in about:
        return {"flows": 0, "blocks": 1, "map": "elementwise"}
    return {"flows": about["flows"], "blocks": about["flow"]["blocks"], "map": ntm_settings.MAPS[about["flow"].get("mix", False)]}


def of_run(config, workdir, mesh, model, find=jobs.require):
    """The Parts of a model of a run; `find` as in normalizing.trained.

    Raises ValueError, one line, for what is missing, damaged, or was not made with the rest.
    """
    directory = find(config, workdir, model) / "model"
    told = told_of(config, checkpoint.read_meta(directory), model)
    own, shape = settings_of(told, {name: config.model[name] for name in MACHINE})
    params, meta = checkpoint.load_params(directory, trained.template(own, shape, mesh, model))
    store = find(config, workdir, "images")
    _require_made_with(workdir, model, "images")
    denoiser, why = _denoiser(config, workdir, mesh, model, (own, shape), find)
    return Parts(
        title=f"{model} of {workdir}",
        model=model,
        told=told,
        config=own,
        shape=shape,
        names=tuple(image_records.about(store)["names"]) if shape.classes else (),
        network=trained.Network(params=params, hash=meta["hash"]),
        denoiser=denoiser,
        no_denoiser=why,
        autoencoder=_autoencoder(config, workdir, mesh, model, find),
    )


def _autoencoder(config, workdir, mesh, model, find):
    made_of = (bookkeeping.done(workdir / model) or {}).get("made_of", {}).get("inputs", {})
    if "autoencoder" not in made_of:
        return None
    directory = find(config, workdir, "autoencoder") / "model"
    _require_made_with(workdir, model, "autoencoder")
    cfg = autoencoders.AutoencoderConfig(**checkpoint.read_meta(directory)[description.KEY]["shape"])
    params, _ = checkpoint.load_params(directory, autoencoder_template(cfg, mesh))
    return cfg, params


def autoencoder_template(cfg, mesh):
    """The abstract weights of an autoencoder, in their shardings."""
    return meshes.abstract(mesh, lambda: autoencoders.init(jax.random.key(0), cfg))


def _denoiser(config, workdir, mesh, model, own, find):
    """(function that reads its weights or None, why there is none)."""
    if model != "ntm":
        return None, "the denoiser learns from the model ntm alone: take score or none"
    if "denoiser" not in ntm_networks.models(config):
        return None, f"models of the run is {', '.join(ntm_networks.models(config))}: take score or none, or add denoiser"
    if bookkeeping.done(workdir / "denoiser") is None:
        return None, f"{workdir / 'denoiser'} is unfinished: run --stage=denoiser first, or take score or none"

    def read():
        directory = find(config, workdir, "denoiser") / "model"
        _require_made_with(workdir, "denoiser", "ntm")
        return checkpoint.load_params(directory, trained.template(*own, mesh, "denoiser"))[0]

    return read, ""


def _require_made_with(workdir, model, name):
    """Raise ValueError, one line, where an artefact was made from another `name` than stands in the work directory."""
    [record, its] = [bookkeeping.done(workdir / one) or {} for one in (model, name)]
    made_from = record.get("made_of", {}).get("inputs", {}).get(name, [None, None])[1]
    if made_from is not None and made_from != its.get("content"):
        raise ValueError(
            f"{workdir / model} was made from another {name} than {workdir / name}: run all stages there again, and do as they say"
        )


def heldout_vectors(config, workdir, find=jobs.require):
    """The conditioning vectors of a run's held-out images, [N, V]."""
    latents = config.autoencoder.channels
    store = find(config, workdir, "autoencoder") / LATENTS if latents else find(config, workdir, "images")
    return trained.heldout(config, store)["y"]

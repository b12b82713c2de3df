"""Loaders of what earlier stages of NTM wrote to a work directory: the data, its shape, and the networks."""

import dataclasses
from typing import Any

import jax

from tsdfm_jax.config import image_settings
from tsdfm_jax.data import image_records
from tsdfm_jax.models import autoencoder as autoencoders, patches
from tsdfm_jax.normalizing import autoencoder_training, networks
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import jobs
from tsdfm_jax.workspace.ntm_artefacts import LATENTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: its weights and their content hash."""

    params: Any
    hash: str


def source(config, workdir, find=jobs.require):
    """The store of records that the networks learn from: images, or their latents where there is an autoencoder.

    `find(config, workdir, name)` of this and of the other loaders gives an artefact's directory, as in workspace.trained.
    """
    return find(config, workdir, "autoencoder") / LATENTS if config.autoencoder.channels else find(config, workdir, "images")


def shape(config, store):
    """The networks.Shape of the records in a store."""
    about = image_records.about(store)
    return networks.Shape(image=tuple(about["shape"]), patch=config.images.patch, classes=about["classes"], vector=about["vector"])


def heldout(config, store):
    """The first `evaluate.heldout` held-out records, or all if there are fewer: {"x": x_NHWC, "y": …}."""
    have = image_records.about(store)["counts"]["heldout"]
    return image_records.arrays(store, "heldout", min(config.evaluate.heldout, have))


def description(config, data_shape, model):
    """What stands beside the weights of a network: the data's shape, its networks, and the levels that it was trained on."""
    of = {"flow_matching": networks.flow_matching, "denoiser": networks.denoiser}.get(model, networks.predictor)
    about = {"data": dataclasses.asdict(data_shape), "shape": dataclasses.asdict(of(config, data_shape))}
    if model not in ("ntm", "ntm_identity", "denoiser"):
        return about
    about |= {"levels": {"steps": list(config.ntm.steps), "shift": config.ntm.shift, "end": config.ntm.t_sample}}
    if model == "ntm":
        about |= {"flows": networks.flows(config, model), "flow": dataclasses.asdict(networks.flow(config, data_shape))}
    return about


def template(config, data_shape, mesh, model):
    """The abstract weights of a network of a config, in their shardings."""
    if model in ("ntm", "ntm_identity"):
        init = lambda: networks.init(jax.random.key(0), config, data_shape, model)
    else:
        of = {"flow_matching": networks.flow_matching, "denoiser": networks.denoiser}[model]
        init = lambda: patches.init(jax.random.key(0), of(config, data_shape))
    return meshes.abstract(mesh, init)


def network(config, workdir, mesh, model, find=jobs.require):
    """The trained network of a name: flow_matching, ntm, ntm_identity or denoiser (its moving average)."""
    directory, data_shape = find(config, workdir, model) / "model", shape(config, source(config, workdir, find))
    params, meta = checkpoint.load_params(directory, template(config, data_shape, mesh, model))
    return Network(params=params, hash=meta["hash"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """From what the networks draw to images; without an autoencoder they are the same.

    Attributes:
      cfg, params: the autoencoder's; None without one.
      mesh: the devices that it runs on.
      batch: latents decoded at once.
    """

    cfg: autoencoders.AutoencoderConfig | None
    params: Any
    mesh: Any
    batch: int

    def __call__(self, x_NHWC):
        """Images in [-1, 1], or latents that nothing decodes, as they are."""
        return x_NHWC if self.cfg is None else autoencoder_training.decode(self.cfg, self.params, x_NHWC, self.mesh, self.batch)


def decoder(config, workdir, mesh, batch, find=jobs.require):
    """The Decoder of a run."""
    if not config.autoencoder.channels:
        return Decoder(cfg=None, params=None, mesh=mesh, batch=batch)
    about = image_records.about(find(config, workdir, "images"))
    cfg = image_settings.autoencoder(config, about["shape"])
    init = lambda: autoencoders.init(jax.random.key(0), cfg)
    params, _ = checkpoint.load_params(find(config, workdir, "autoencoder") / "model", meshes.abstract(mesh, init))
    return Decoder(cfg=cfg, params=params, mesh=mesh, batch=batch)

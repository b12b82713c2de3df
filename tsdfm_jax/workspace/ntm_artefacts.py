"""What each stage of NTM leaves: of which keys, sources and earlier artefacts it is made, and what of it others read."""

import json

from tsdfm_jax.config import ntm_networks, ntm_settings
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.workspace import contents, graph, sources as outside

# The config keys that each stage's result depends on, beside those of the stages before it.
KEYS = {
    "images": (
        "seed",
        "images.package",
        "images.files",
        "images.field",
        "images.label",
        "images.size",
        "images.latents",
        "images.limit",
        "images.holdout",
        "images.images_per_shard",
    ),
    "autoencoder": ("autoencoder", "model.dtype"),
    "flow_matching": ("autoencoder.channels", "images.patch", "model", "flow_matching"),
    "ntm": ("autoencoder.channels", "images.patch", "model", "transporter", "ntm"),
    "denoiser": ("denoiser", "ntm.t_sample"),
    # Keys that add rows are not here: the stage keeps its results and adds to them.
    "evaluate": ("evaluate.samples", "evaluate.heldout", "evaluate.classifier", "ntm.shift", "ntm.t_sample", "denoiser.clip"),
}
# Keys that measure the networks of stages `flow_matching` and `ntm`, and change nothing of them.
MEASURING_KEYS = ("evaluate.heldout", "ntm.t_sample")
NEEDED = ("autoencoder", "flow_matching", "images", "model", "ntm")
ADDED = ()
ADDING = ("seeds", "steps", "flow_matching_steps", "guidance", "noise_free")
EVIDENCE = None  # no earlier version of the code made such runs
LATENTS = "latents"  # the folder of the autoencoder with the records of the encoded images
PER_FOLDER = 100  # files of a folder that are known one by one; more are known together


def stage_keys(config, stage):
    """All keys that what a stage makes depends on under this config, as plain JSON."""
    return graph.fingerprint(config, stage)


def artefacts(config, chain):
    """Add all artefacts of a config to a graph.Chain."""
    chain.add("images", "images")
    data = ["images"]
    if ntm_networks.needs(config, "autoencoder"):
        chain.add("autoencoder", "autoencoder", ["images"])
        data += ["autoencoder"]
    measuring = graph.values_of(config, MEASURING_KEYS)
    if ntm_networks.needs(config, "flow_matching"):
        chain.add("flow_matching", "flow_matching", data, figure_keys=measuring)
    started_from = ["flow_matching"] if config.ntm.start == "flow_matching" else []
    for name in ntm_networks.normalizing(config):
        chain.add(name, "ntm", [*data, *started_from], keys=_keys(config, name), figure_keys=measuring)
    if ntm_networks.needs(config, "denoiser"):
        chain.add("denoiser", "denoiser", [*data, "ntm"])
    additions = graph.values_of(config, [f"evaluate.{key}" for key in ADDING]) | {"models": list(ntm_networks.models(config))}
    chain.add("evaluate", "evaluate", [*data, *ntm_networks.models(config)], additions=additions)
    chain.add("report", "report", list(chain.made), keys={}, additions=json.loads(config.to_json()))  # it shows the whole config


def _keys(config, name):
    """The keys behind a network of stage `ntm`: the one without a transporter has nothing of its keys."""
    keys = graph.fingerprint(config, "ntm")
    del keys["ntm"]["t_sample"]
    if name == "ntm_identity":
        del keys["transporter"]
    return keys


def model_directory(config, model):
    """The directory of a model of the config."""
    return model


def directories(config, stage):
    """Names of the artefacts that a stage makes, in order, without a look at any file."""
    if stage == "ntm":
        return list(ntm_networks.normalizing(config))
    return [stage] if ntm_networks.needs(config, stage) and stage in (*KEYS, "report") else []


def sampled(config):
    """The artefacts that stage `sample` reads: its model, and the denoiser where that is asked for."""
    return (config.sample.model, *(["denoiser"] if config.sample.denoise == "learned" else []))


def sources(config, stage, memory, name):
    """{what: identity} of what an artefact reads from outside: the images, by their files' content or their package's version.

    Raises FileNotFoundError where they are not there.
    """
    if stage != "images":
        return {}
    from tsdfm_jax.data import images  # late: it reads many formats, and most commands read none

    source = ntm_settings.images_config(config)
    if not source.files:
        return {"package": f"{source.package} {images.version(source.package)}"}
    return {"files": by_folder(outside.hashes(images.files(source), memory))}


def by_folder(hashes):
    """{path: sha256} with one hash for all files of a folder that has more than PER_FOLDER: {"folder/ (101 files)": hash}."""
    folders, found = {}, {}
    for path in hashes:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    for folder, paths in folders.items():
        files = {path: hashes[path] for path in paths}
        found |= files if len(files) <= PER_FOLDER else {f"{folder}/ ({len(files)} files)": digest(files)}
    return found


CONTENTS = {
    "images": lambda directory, figures: contents.of_records(directory),
    "autoencoder": lambda directory, figures: digest([figures["hash"], contents.of_records(directory / LATENTS)]),
}

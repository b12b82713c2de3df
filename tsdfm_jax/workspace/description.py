"""What a trained network says of itself, beside its weights: its shape, path and length. Nothing else is needed to open it."""

import dataclasses

KEY = "network"  # of model/meta.json
OF_THE_MACHINE = ("attention", "remat", "unroll", "dropout")  # how a network is computed or trained, not what it is


def of_flow(cfg, length, path):
    """The description of a teacher, student or trained compass: its transformer.TransformerConfig, L, and its path."""
    return {"length": length, "path": dataclasses.asdict(path), "shape": dataclasses.asdict(cfg)}


def of_causal(cfg):
    """The description of a judge or an autoregressive model: its causal.CausalConfig."""
    return {"length": cfg.length, "shape": dataclasses.asdict(cfg)}


def into_config(config, meta, model):
    """A copy of a run's config in which the keys that describe `model` say what its meta.json says."""
    own, about = config.copy_and_resolve_references(), meta.get(KEY)
    if about is None:  # written by an earlier version
        return own
    with own.unlocked():
        own.data.length = about["length"]
        section = own.autoregressive if model == "autoregressive" else own.model
        section.update({name: about["shape"][name] for name in section if name in about["shape"] and name not in OF_THE_MACHINE})
        own.model.dtype = about["shape"]["dtype"]
        own.flow.update({name: about["path"][name] for name in ("source", "exponent") if "path" in about})
    return own


def check(directory, meta, cfg, flow_path=None):
    """Raise ValueError, in one line, for the first value in which a config contradicts the network in a directory."""
    about = meta.get(KEY)
    if about is None:
        return
    wanted = {"shape": dataclasses.asdict(cfg), **({"path": dataclasses.asdict(flow_path)} if flow_path else {})}
    for part, values in wanted.items():
        for name, value in values.items():
            if name not in OF_THE_MACHINE and about[part].get(name, value) != value:
                raise ValueError(
                    f"{directory} is a network of {name} {about[part][name]}, but the config says {value}: leave that key out, or "
                    f"use another --workdir"
                )

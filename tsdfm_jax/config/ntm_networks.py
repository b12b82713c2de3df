"""The networks that a config of NTM makes (the key `models`), and the stages that they need."""

MODELS = ("flow_matching", "ntm", "ntm_identity", "denoiser")
SAMPLED = MODELS[:3]  # those that draw images
NORMALIZING = ("ntm", "ntm_identity")  # those with an exact likelihood, which stage `ntm` makes


def models(config):
    """Names of the networks that are made and judged."""
    return tuple(config.models)


def normalizing(config):
    """The networks of stage `ntm` that are made."""
    return tuple(name for name in NORMALIZING if name in models(config))


def unneeded(config, stage):
    """Why the config does not need a stage; "" if it does."""
    if stage == "autoencoder":
        return "" if config.autoencoder.channels else "autoencoder.channels is 0"
    needed = {"flow_matching": "flow_matching" in models(config), "denoiser": "denoiser" in models(config)}
    needed["ntm"] = bool(normalizing(config))
    return "" if needed.get(stage, True) else f"models is {', '.join(models(config))}"


def needs(config, stage):
    """Whether the config needs a stage."""
    return not unneeded(config, stage)


def needed_by(config):
    """Yield (model, another that it is made from, why) for every model of the config."""
    for name in normalizing(config):
        if config.ntm.start == "flow_matching":
            yield name, "flow_matching", "which ntm.start says that it starts from: add it, or set ntm.start=scratch"
    if "denoiser" in models(config):
        yield "denoiser", "ntm", "which it learns from: add it, or leave denoiser out"


def check_models(config):
    """Check that `models` names known networks, each once, and with each those that it is made from.

    Raises ValueError, one line, for the first error.
    """
    names = models(config)
    if not names:
        raise ValueError(f"models () is empty: name one of {', '.join(MODELS)}")
    for name in names:
        if name not in MODELS:
            raise ValueError(f"models {name!r} is not one of {', '.join(MODELS)}")
        if names.count(name) > 1:
            raise ValueError(f"models {names} name {name} twice: leave one out")
    for name, other, why in needed_by(config):
        if other not in names:
            raise ValueError(f"models {names} have {name} and no {other}, {why}")
    if config.sample.model not in SAMPLED:
        raise ValueError(f"sample.model {config.sample.model!r} is not one of {', '.join(SAMPLED)}")
    if config.sample.model not in names:
        raise ValueError(
            f"sample.model {config.sample.model!r} is not among models {names} of the config: take one of those, or add it"
        )

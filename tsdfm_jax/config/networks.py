"""The networks that a config of TS-DFM makes (the key `models`), and the stages that they need."""

MODELS = ("teacher", "student_shaped", "student_blind", "autoregressive")
FLOW_MODELS = MODELS[:3]  # a config without the key `models`, of an older version, makes these


def models(config):
    """Names of the networks that are made and judged."""
    return tuple(config.get("models", FLOW_MODELS))


def variants(config):
    """The students that are made: "shaped", "blind", both or neither."""
    return tuple(variant for variant in ("shaped", "blind") if f"student_{variant}" in models(config))


def needs(config, stage):
    """Whether any of the config's models needs a stage."""
    needed = {"teacher": "teacher" in models(config), "autoregressive": "autoregressive" in models(config)}
    needed |= {"compass": "shaped" in variants(config), "trajectories": bool(variants(config)), "student": bool(variants(config))}
    return needed.get(stage, True)


def unneeded(config, stage):
    """Why the config does not need a stage; "" if it does."""
    return "" if needs(config, stage) else f"models is {', '.join(models(config))}"


def evaluations(config, model, steps):
    """Network evaluations per text at a number of steps; the autoregressive model always needs one per token."""
    return config.data.length if model == "autoregressive" else steps


def check_models(config, frontier_models):
    """Check that `models` names known networks, each once, and that other keys name only networks among them.

    `frontier_models` are the models of `evaluate.frontier`. Raises ValueError, one line, for the first error.
    """
    names = models(config)
    if not names:
        raise ValueError(f"models () is empty: name one of {', '.join(MODELS)}")
    for name in names:
        if name not in MODELS:
            raise ValueError(f"models {name!r} is not one of {', '.join(MODELS)}")
        if names.count(name) > 1:
            raise ValueError(f"models {names} name {name} twice: leave one out")
    if variants(config) and "teacher" not in names:
        raise ValueError(f"models {names} have a student and no teacher, which it learns from: add teacher")
    for name in (model for model in frontier_models if model not in names):
        raise ValueError(f"evaluate.frontier asks for {name}, which is not among models {names}: add it, or leave it out there")
    check_made(config, "sample.model", config.sample.model)


def check_made(config, key, model):
    """Raise ValueError, in one line, for a model that does not exist or that this config does not make."""
    if model not in MODELS:
        raise ValueError(f"{key} {model!r} is not one of {', '.join(MODELS)}")
    if model not in models(config):
        raise ValueError(f"{key} {model!r} is not among models {models(config)} of the config: take one of those, or add it")

"""The baselines of TS-DFM, on the same backbone, with the same data, judges, teacher and budget."""

import importlib

OF = ("quickstart", "sotu", "fineweb_170m")


def start(of, models):
    """The config named `of` with only `models`, and a frontier of those; ValueError for an unknown name."""
    if of not in OF:
        raise ValueError(f"a baseline of {of!r}: there are those of {', '.join(OF)}, such as configs/baselines/fsdfm.py:{OF[0]}")
    c = importlib.import_module(f"configs.{of}").get_config()
    swept = [part.strip() for part in c.evaluate.frontier.split(",")]
    c.evaluate.frontier = ", ".join(part for part in swept if part.split(":")[0] in models)
    c.models, c.sample.model = models, models[-1]
    return c

"""The baselines of TS-DFM, on the same backbone, with the same data, judges, teacher and budget."""

import importlib

BASES = ("quickstart", "sotu", "fineweb_170m")


def start(base_name, models):
    """The config named `base_name` with only `models`, and a frontier of those; ValueError for an unknown name."""
    if base_name not in BASES:
        raise ValueError(
            f"a baseline of {base_name!r}: there are those of {', '.join(BASES)}, such as configs/baselines/fsdfm.py:{BASES[0]}"
        )
    c = importlib.import_module(f"configs.{base_name}").get_config()
    entries = [part.strip() for part in c.evaluate.frontier.split(",")]
    c.evaluate.frontier = ", ".join(part for part in entries if part.split(":")[0] in models)
    c.models, c.sample.model = models, models[-1]
    return c

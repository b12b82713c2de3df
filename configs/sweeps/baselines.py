"""TS-DFM beside its baselines: FS-DFM, self-distillation through time (SDTT), and an autoregressive model.

    python -m launch.sweep --config=configs/sweeps/baselines.py:quickstart --workdir=runs/baselines
    python -m launch.sweep --config=configs/sweeps/baselines.py:quickstart --workdir=runs/baselines --table
    python -m launch.compare runs/baselines/tsdfm runs/baselines/fsdfm runs/baselines/sdtt runs/baselines/autoregressive

Four runs of `python -m tsdfm_jax.main`: the config that the argument names (quickstart, sotu or fineweb_170m) unchanged, and
each of configs/baselines. They share tokenizer, data, judges and teacher, which are made once. The sweep has not been run in
full. From the quickstart's times expect some 25 minutes on 2 CPU cores.
"""

import importlib

from configs import baselines
from configs.baselines import autoregressive, fsdfm, sdtt


def get_config(base_name="quickstart"):
    """The config named `base_name`."""
    return (
        importlib.import_module(f"configs.{base_name}").get_config()
        if base_name in baselines.BASES
        else baselines.start(base_name, ())
    )


def get_hyper(hyper, base_name="quickstart"):
    """A run for the config itself and for each baseline, by name."""
    base = get_config(base_name)
    others = {"fsdfm": fsdfm, "sdtt": sdtt, "autoregressive": autoregressive}
    return [hyper.named("tsdfm", {}), *(hyper.differing(name, base, file.get_config(base_name)) for name, file in others.items())]

"""Stand-ins for the stages of NTM: they keep a work directory as the real ones do, and train one small network."""

import dataclasses
import json
import pathlib
import sys
import types

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax import data
from tsdfm_jax.config import methods, settings
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import hosts, state as states
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import graph, jobs

MARK = "calls.txt"  # of a work directory: a line for each stage that had something to do


class Toy(nn.Module):
    """A network of one layer."""

    @nn.compact
    def __call__(self, x_BD):
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        return nn.Dense(8, kernel_init=kernel)(x_BD)


def train(config, job, name, directory):
    """Train the toy on noise, as a stage trains a network on images; `name` is its section."""
    mesh, section = settings.mesh(config), config[name]
    rows = [{"x": row} for row in np.random.default_rng(config.seed).normal(size=(32, 8)).astype(np.float32)]
    batches = iter(grain.MapDataset.source(rows).shuffle(5).repeat().batch(section.batch).to_iter_dataset())
    loss = lambda key, params, batch: (jnp.mean((Toy().apply({"params": params}, batch["x"]) - batch["x"]) ** 2), {})
    init = lambda: Toy().init(jax.random.key(config.seed), jnp.zeros((1, 8)))["params"]
    learner = states.learner(init, loss, settings.optimiser(section), mesh, config.seed)
    options = dict(name=name, mesh=mesh, about={"shape": {"width": config.model.width}})
    return jobs.train(config, job, section, learner, batches, **options, directory=directory)[1]


def images(config, directory):
    """Records of two splits, by their manifests alone."""
    for split in ("train", "heldout"):
        (directory / split).mkdir(parents=True, exist_ok=True)
        shards = [{"name": "shard-0", "sha256": digest([split, config.seed, config.images.limit])}]
        atomic.overwrite(directory / split / "manifest.json", json.dumps({"shards": shards}))
    return {"hash": "of the records"}


def autoencoder(config, directory):
    """As the images, in a folder of their own."""
    images(config, directory / "latents")
    return {"hash": digest(config.autoencoder.channels)}


def denoiser(config, directory):
    """A hash alone."""
    return {"hash": digest([config.denoiser.batch])}


def table(config, directory):
    """The rows of an evaluation: one for each number of steps."""
    atomic.overwrite(directory / "rows.json", json.dumps([{"steps": steps} for steps in config.evaluate.steps]))
    return {}


def page(config, directory):
    """A report that shows the whole config."""
    atomic.overwrite(directory / "report.json", config.to_json())
    return {}


MADE = {"images": images, "autoencoder": autoencoder, "denoiser": denoiser, "evaluate": table, "report": page}


def run(stage, config, workdir, remake=False):
    """What the stage `run` of a module is: makes the artefacts of `stage`, and draws nothing in stage `sample`."""
    workdir = pathlib.Path(workdir)
    if stage == "sample":
        for name in graph.sampled(config):
            jobs.require(config, workdir, name)
        return note(workdir, stage)
    for name in graph.directories(config, stage):
        with jobs.job(config, workdir, name, remake) as job:
            if job.finished is not None:
                continue
            note(workdir, name)
            if stage in MADE:
                figures = MADE[stage](config, job.directory)
            else:
                figures = train(config, job, stage, job.directory)
            job.finish(figures)


def note(workdir, name):
    """Add a line to the list of what was done."""
    if hosts.is_first():
        with open(workdir / MARK, "a") as file:
            file.write(name + "\n")


def calls(workdir):
    """What was done since the last time that this was asked."""
    file = workdir / MARK
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """The keys of `images` that the stand-in reads."""

    package: str
    files: str
    patch: int
    seed: int


def files(cfg):
    """The images' files: those of a folder, of a package none. Raises FileNotFoundError for a folder that is not there."""
    found = sorted(path for path in pathlib.Path(cfg.files).rglob("*") if path.is_file()) if cfg.files else []
    if cfg.files and not found:
        raise FileNotFoundError(f"images.files={cfg.files} holds no image")
    return found


def install(monkeypatch):
    """Let NTM's stages be these, and the reader of images that it takes its sources from."""
    for stage in methods.NTM.order:
        module = types.ModuleType(f"ntm_standin.{stage}")
        module.run = lambda config, workdir, remake=False, stage=stage: run(stage, config, workdir, remake)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(methods.Method, "load", loader(methods.Method.load))
    reader = types.ModuleType("tsdfm_jax.data.images")
    reader.files, reader.check, reader.version = files, files, lambda package: "1.0"
    reader.ImagesConfig = ImagesConfig
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    monkeypatch.setattr(data, "images", reader, raising=False)


def loader(plain):
    """Method.load with the stages of NTM replaced."""

    def load(method, part):
        is_stage = method.name == "ntm" and part in method.order
        return sys.modules[f"ntm_standin.{part}"] if is_stage else plain(method, part)

    return load

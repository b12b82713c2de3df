"""Stage `sample`: draws images with one of the models, as arrays and as a picture. Time runs from 0 = data to 1 = noise."""

import itertools
import pathlib
import time

import filelock
import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.normalizing import model as models, opening
from tsdfm_jax.runtime import hosts, metrics, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import graph, jobs

FILES = (".npz", ".png", ".json")  # of a request; the last says what the others are


def run(config, workdir, remake=False):
    """Write `samples/sample.npz` (images, labels), `samples/sample.png` and, beside them, what was asked for in `sample.json`.

    The same request to the same network draws nothing. Images of other requests that are there move to `sample_1.npz` and so on;
    those that another network drew for the same request are replaced. `remake` means nothing to this stage.
    """
    del remake
    workdir = pathlib.Path(workdir)
    asked, made_of = request(config), made_of_what(config, workdir)
    with metrics.Metrics(workdir, "sample") as out:
        if (file := hosts.first(lambda: stored(workdir / "samples", made_of))) is not None:
            out.line(f"{config.sample.number} images as they were drawn before, in {file}")
            return
        with signals.stopping():
            started, before = time.perf_counter(), metrics.compiled()
            images = draw(config, workdir)
            seconds, compiled = time.perf_counter() - started, metrics.compiled() - before
        file = hosts.first(lambda: write(workdir / "samples", images, {"request": asked, "made_of": made_of, "seconds": seconds}))
        out.line(f"{len(images)} images in {seconds:.1f} s, of which {compiled}; in {file} and {file.with_suffix('.png').name}")


def request(config):
    """What is asked for, as plain JSON."""
    return {key: value for key, value in config.sample.to_dict().items() if key != "batch"}


def made_of_what(config, workdir):
    """A hash of all that the images depend on."""
    names = [*graph.sampled(config), *(["autoencoder"] if config.autoencoder.channels else []), "images"]
    contents = [bookkeeping.done(jobs.require(config, workdir, name))["content"] for name in names]
    computed = [config.ntm.shift, config.ntm.t_sample, config.denoiser.clip, config.model.dtype, config.mesh.tensor]
    return digest([request(config), computed, contents])


def draw(config, workdir):
    """The images that a config asks for."""
    c, mesh = config.sample, settings.mesh(config)
    model = models.Model(opening.of_run(config, workdir, mesh, c.model), mesh)
    label = None if c.label < 0 else c.label
    if label is None and model.parts.shape.vector:
        have = opening.heldout_vectors(config, workdir)
        label = have[np.arange(c.number) % len(have)]
    options = dict(steps=c.steps, number=c.number, guidance=c.guidance, denoise=c.denoise, noise_free=c.noise_free)
    return model.sample(label, seed=c.seed, batch=c.batch, **options)


def stored(directory, made_of):
    """The file of whole images that were made of the same; None where there are none."""
    for note in sorted(directory.glob("sample*.json")):
        about = atomic.read_if_sealed(note)
        if about.get("made_of") == made_of and about.get("files") == hashes(note):
            return note.with_suffix(".npz")
    return None


def hashes(note):
    """{suffix: sha256} of the files that a note is of; {} where one is missing."""
    files = [note.with_suffix(suffix) for suffix in FILES[:-1]]
    return {file.suffix: atomic.sha256(file) for file in files} if all(file.is_file() for file in files) else {}


def write(directory, images, about):
    """Write the images and their note; returns the file with the arrays. Those of another request move aside before."""
    file = directory / "sample.npz"
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".lock"):  # several commands may sample at once
        before = atomic.read_if_sealed(file.with_suffix(".json"))
        if file.exists() and before.get("request") != about["request"]:
            keep(file)
        file.with_suffix(".json").unlink(missing_ok=True)  # it is of images that are being replaced
        for suffix in FILES[:-1]:
            images.save(file.with_suffix(suffix))
        atomic.write_sealed(file.with_suffix(".json"), {**about, "files": hashes(file.with_suffix(".json"))})
    return file


def keep(file):
    """Give the images of an earlier request the first name that is free."""
    places = (file.with_stem(f"{file.stem}_{number}") for number in itertools.count(1))
    free = next(place for place in places if not any(place.with_suffix(suffix).exists() for suffix in FILES))
    for suffix in FILES:
        if file.with_suffix(suffix).exists():
            file.with_suffix(suffix).rename(free.with_suffix(suffix))

"""Negative ELBO of held-out text for teacher and students, -log p for the autoregressive model; bits per byte, lower is better."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import windows
from tsdfm_jax.flow import losses
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.runtime import hosts, mesh as meshes, pipeline, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs, trained

ROUNDS = 16  # stratified times per held-out window
EXACT = {"autoregressive": "-log p itself, not a bound: it multiplies the tokens' own probabilities"}
MEASURED_BY_STAGES = ("teacher", "autoregressive")  # measured by their own stages
FINEST = settings.STEP_SIZES[-1]  # step size given to a student: the ELBO is that of the continuous-time process


def heldout(posterior, path, mesh, x_1_NL, batch):
    """`params -> nats`: the negative ELBO per token of held-out text, with stratified t and a fixed seed.

    `posterior(params, x_BL, t_B)` gives a network's logits. Raises signals.Interrupted when asked to stop.
    """

    def of_batch(params, x_1_BL, number):
        key = jax.random.fold_in(jax.random.key(0), number)
        return losses.elbo(key, path, functools.partial(posterior, params), x_1_BL).mean()

    jitted = meshes.jit(mesh, of_batch, out_shardings=meshes.replicated(mesh))
    parts = [x_1_NL[i : i + batch] for i in range(0, len(x_1_NL) - batch + 1, batch)]
    batches = [meshes.put_whole(mesh, part) for part in parts]
    places = [(r * len(batches) + i, x) for r in range(ROUNDS) for i, x in enumerate(batches)]

    def measure(params):
        values = []
        for value in pipeline.ahead(lambda place: jitted(params, place[1], np.int32(place[0])), places):
            values.append(value)
            if signals.stop_agreed(len(values), every=len(batches)):
                raise signals.Interrupted("stopped in a held-out bound; the same command makes it again")
        return float(np.mean(values))

    return measure


def finest(apply):
    """A network's posterior for `heldout`: a student gets the smallest step size, a teacher ignores it."""
    return lambda params, x_BL, t_B: apply(params, x_BL, t_B, jnp.full_like(t_B, FINEST))


def bits_per_byte(data):
    """Factor from nats per token to bits per byte of held-out text; `data` is the directory of the windows."""
    split = windows.manifest(data)["splits"]["heldout"]
    return split["tokens"] / split["bytes"] / np.log(2)


def bits_per_byte_of_models(config, workdir, job):
    """{model: bits per byte} for each of the config's models, kept in `bounds.json`; the models in `EXACT` have exact -log p."""
    file, mesh, data = job.directory / "bounds.json", settings.mesh(config), jobs.require(config, workdir, "data")
    bits = hosts.first(lambda: json.loads(file.read_text()) if file.exists() else {})
    for name in (name for name in MEASURED_BY_STAGES if networks.needs(config, name)):
        bits[name] = bookkeeping.require(jobs.require(config, workdir, name), name)["heldout_bits_per_byte"]
    text_vocab, c = trained.tokenizer(config, workdir).vocab_size, config.teacher
    network = trained.network(config, text_vocab, mesh, step_conditioned=True)
    measure = None
    for variant in networks.variants(config):
        if (name := f"student_{variant}") not in bits:
            if signals.stop_agreed():
                raise signals.Interrupted("evaluate: stopped; the same command goes on from there")
            held_NL = windows.heldout(data, c.heldout)
            measure = measure or heldout(finest(network.apply), settings.path(config, text_vocab), mesh, held_NL, c.batch)
            bits[name] = bits_per_byte(data) * measure(trained.student(config, workdir, mesh, variant).params)
            hosts.first(lambda: atomic.overwrite(file, json.dumps(bits, indent=1)))
    return {name: bits[name] for name in networks.models(config)}

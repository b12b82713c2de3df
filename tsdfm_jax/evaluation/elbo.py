"""Negative ELBO of held-out text for teacher and students, -log p for the autoregressive model; bits per byte, lower is better."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import windows
from tsdfm_jax.flow import losses
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import hosts, mesh as meshes, pipeline, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs, trained

SCORER = 1  # of `heldout`; another number makes stored bounds stale
ROUNDS = 16  # stratified times per held-out window
EXACT = {"autoregressive": "-log p itself, not a bound: it multiplies the tokens' own probabilities"}
MEASURED_BY_STAGES = ("teacher", "autoregressive")  # measured by their own stages
FINEST = settings.STEP_SIZES[-1]  # step size given to a student: the ELBO is that of the continuous-time process


def heldout(posterior, path, mesh, x_1_NL, batch):
    """`params -> nats`: the negative ELBO per token of held-out text, with stratified t and a fixed seed.

    `posterior(params, x_BL, t_B)` gives a network's logits. Every window counts alike, however many the last batch has. The
    function raises signals.Interrupted between two batches when asked to stop; every process must call it.
    """

    def of_batch(params, x_1_BL, number):
        key = jax.random.fold_in(jax.random.key(0), number)
        return losses.elbo(key, path, functools.partial(posterior, params), x_1_BL).mean(axis=1)

    jitted = meshes.jit(mesh, of_batch, out_shardings=meshes.batch_sharding(mesh))
    count, whole = len(x_1_NL), len(x_1_NL) // batch
    firsts = range(0, count, batch)
    # The last window fills up the last batch; its copies are not counted.
    batches = [meshes.put_whole(mesh, x_1_NL[np.minimum(np.arange(i, i + batch), count - 1)]) for i in firsts]
    # Whole batches have the numbers that they would have without the last one.
    numbers = [r * whole + i if i < whole else ROUNDS * whole + r for r in range(ROUNDS) for i in range(len(batches))]
    rows = [count - first if first + batch > count else batch for first in firsts] * ROUNDS

    def nats(params):
        start = lambda place: jitted(params, batches[place % len(batches)], np.int32(numbers[place]))
        total, stop = 0.0, signals.DelayedStop()
        for nats_B, counted in zip(pipeline.ahead(start, range(len(numbers))), rows):
            total += float(nats_B[:counted].sum(dtype=np.float64))
            if stop():
                raise signals.Interrupted("held-out ELBO: stopped; the same command goes on from there")
        return total / (ROUNDS * count)

    return nats


def finest(apply):
    """A network's posterior for `heldout`: a student gets the smallest step size, a teacher ignores it."""
    return lambda params, x_BL, t_B: apply(params, x_BL, t_B, jnp.full_like(t_B, FINEST))


def bits_per_byte(data):
    """Factor from nats per token to bits per byte of held-out text; `data` is the directory of the windows."""
    split = windows.manifest(data)["splits"]["heldout"]
    return split["tokens"] / split["bytes"] / np.log(2)


def bits_per_byte_of_models(config, workdir, job):
    """{model: bits per byte} for each of the config's models; the models in `EXACT` have exact -log p.

    `bounds.json` keeps those that are measured here, each with a hash of what it was measured on.
    """
    file, mesh, data = job.directory / "bounds.json", settings.mesh(config), jobs.require(config, workdir, "data")
    stored = hosts.first(lambda: atomic.read_if_sealed(file))
    bits = {}
    for name in (name for name in MEASURED_BY_STAGES if networks.needs(config, name)):
        bits[name] = bookkeeping.require(jobs.require(config, workdir, name), name)["heldout_bits_per_byte"]
    text_vocab, c = trained.tokenizer(config, workdir).vocab_size, config.teacher
    network = trained.network(config, text_vocab, mesh, step_conditioned=True)
    measure = None
    for variant in networks.variants(config):
        name, student = f"student_{variant}", trained.student(config, workdir, mesh, variant)
        of = digest([student.hash, bookkeeping.done(data)["content"], config.flow.to_dict(), c.heldout, c.batch, SCORER])
        entry = stored.get(name)
        if not isinstance(entry, dict) or entry.get("of") != of:
            if signals.stop_agreed():
                raise signals.Interrupted("evaluate: stopped; the same command goes on from there")
            held_NL = windows.heldout(data, c.heldout)
            measure = measure or heldout(finest(network.apply), settings.path(config, text_vocab), mesh, held_NL, c.batch)
            stored[name] = atomic.finite({"bits_per_byte": bits_per_byte(data) * measure(student.params), "of": of})
            hosts.first(lambda: atomic.write_sealed(file, stored))
        bits[name] = stored[name]["bits_per_byte"]
    return {name: bits[name] for name in networks.models(config)}

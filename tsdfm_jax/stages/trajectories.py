"""Stage `trajectories`: generates shaped trajectories offline, and a blind set from the same starting states."""

import json

import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import records, windows
from tsdfm_jax.distillation import generation, trajectory_records
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.runtime import hosts, mesh as meshes, metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import graph, jobs, trained, tsdfm_artefacts

LOG_LINE = "{variant} {kind}: {records_per_second:,.0f} records a second, device busy at least {device_busy:.1%} of {seconds:.1f} s"
SUMMED = ("seconds", "compile_seconds", "compilations", "from_cache")


def run(config, workdir, round_number=0, remake=False):
    """Write `trajectories/round_r/{shaped,blind}/{whole,chain}`, those that the students and their target need."""
    with signals.stopping():  # around both sets: a request to stop after the last batch of one reaches the other
        figures = {variant: make(config, workdir, variant, round_number, remake) for variant in networks.variants(config)}
        hosts.first(lambda: write_summary(config, workdir / f"trajectories/round_{round_number}", figures))
        if signals.stop_agreed():
            raise signals.Interrupted("trajectories: stopped when all sets were made; the same command goes on from there")


def make(config, workdir, variant, round_number, remake):
    """Make the sets of records of one variant; returns their figures."""
    with jobs.job(config, workdir, tsdfm_artefacts.trajectories_directory(variant, round_number), remake) as job:
        if job.finished is None:
            kinds = settings.TARGETS[config.student.target]
            sets = {f"{variant}_{kind}": generate(config, workdir, job, variant, kind, round_number) for kind in kinds}
            job.finish({"sets": sets})
    return bookkeeping.done(job.directory)["figures"]


def write_summary(config, directory, figures):
    """Write the figures of all sets of a round into its done.json."""
    sets = {name: one for part in figures.values() for name, one in part["sets"].items()}
    summed = {name: sum(part[name] for part in figures.values()) for name in SUMMED}
    peak = max(part["peak_memory_bytes"] for part in figures.values())
    body = {"fingerprint": graph.fingerprint(config, "trajectories"), "summary_of": list(figures)}
    body |= {"figures": {"sets": sets, **summed, "peak_memory_bytes": peak}}
    if bookkeeping.done(directory) != body:
        atomic.overwrite(directory / bookkeeping.DONE, json.dumps(body, indent=1))


def generate(config, workdir, job, variant, kind, round_number):
    """Make the missing shards of one set of records; returns the set's metrics.

    Every process computes its part of each batch. One process writes a shard, and the processes take turns.
    """
    mesh, c, tok = settings.mesh(config), config.trajectories, trained.tokenizer(config, workdir)
    generator = trained.generator(config, workdir, mesh, variant, round_number)
    compass_params, compass_hash = trained.compass(config, workdir, mesh) if variant == "shaped" else (None, None)
    schema = trajectory_records.schema(
        config, settings.path(config, tok.vocab_size), kind, generation.shaping_config(config, variant).candidates
    )
    directory, shards = job.directory / kind, -(-c.count // c.shard)
    sources = {"generator": generator.hash, "compass": compass_hash, "tokenizer": tok.content_hash}
    keys = graph.fingerprint(config, "trajectories") | job.fingerprint
    provenance = json.dumps([sources, keys, config.seed, round_number, variant], sort_keys=True)
    jitted = generation.program(config, tok.vocab_size, mesh, kind, variant, generator.apply, round_number)
    params = {"generator": generator.params, "compass": compass_params}
    finished = hosts.first(lambda: records.finished_shards(directory, schema, provenance) if directory.exists() else set())
    data = windows.ordered(jobs.require(config, workdir, "data"), "train", settings.student_seed(config))

    def start(first):
        x_1_BL = meshes.put_rows(mesh, lambda rows: data(range(first + rows.start, first + rows.stop)), c.batch)
        return jitted(params, np.int32(first), x_1_BL)

    write = lambda shard, rows: records.write_shard(directory, shard, schema, trajectory_records.joined(rows), provenance)
    with metrics_lib.progress(f"{variant} {kind}", shards * c.shard, "record", len(finished) * c.shard) as bar:
        figures = trajectory_records.make(start, write, sorted(set(range(shards)) - finished), shards, c, bar)
    if figures["device_busy"] is not None:
        job.metrics.line(LOG_LINE.format(variant=variant, kind=kind, **figures))
    manifest = dict(seed=config.seed, config=config.to_dict(), sources=sources, shards=shards, provenance=provenance)
    hosts.first(lambda: records.seal(directory, schema, **manifest))
    return hosts.first(lambda: set_metrics(directory)) | figures


def set_metrics(directory):
    """Numbers of records, jumps and candidates of a set, and how often its first 512 records kept the first draw."""
    store = records.open_store(directory)
    sample = [store[i] for i in range(min(len(store), 512))]
    index_NS = np.stack([row["index"] for row in sample])
    return {
        "records": len(store),
        "jumps": int(index_NS.shape[1]),
        "first_draw_kept": float((index_NS == 0).mean()),
        "candidates": int(sample[0]["energy"].shape[1]),
    }

"""Stage `trajectories`: generates shaped trajectories offline, and a blind set from the same starting states."""

import json

import numpy as np

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import records, windows
from tsdfm_jax.distillation import generation, trajectory_records
from tsdfm_jax.runtime import hosts, mesh as meshes, metrics as metrics_lib, signals
from tsdfm_jax.workspace import jobs, trained

LOG_LINE = "{variant} {kind}: {records_per_second:,.0f} records a second, device busy at least {device_busy:.1%} of {seconds:.1f} s"


def run(config, workdir, round_number=0):
    """Write `trajectories/round_r/{shaped,blind}/{whole,chain}`, those that the students and their target need."""
    with jobs.job(config, workdir, "trajectories", f"trajectories/round_{round_number}") as job:
        sets = [(variant, kind) for variant in networks.variants(config) for kind in settings.TARGETS[config.student.target]]
        if job.finished is not None and hosts.first(
            lambda: all(is_intact(job.directory / variant / kind) for variant, kind in sets)
        ):
            return
        with signals.stopping():  # around all sets: a request to stop after the last batch of one set reaches the next
            figures = {f"{v}_{k}": generate(config, workdir, job, v, k, round_number) for v, k in sets}
            job.finish({"sets": figures})
            if signals.stop_agreed():
                raise signals.Interrupted("trajectories: stopped when all sets were made; the same command goes on from there")


def is_intact(directory):
    """Whether a finished set is complete and undamaged; if not, the stage makes its bad shards again."""
    try:
        records.open_store(directory)
        return True
    except (ValueError, FileNotFoundError):
        return False


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
    directory, shards = job.directory / variant / kind, -(-c.count // c.shard)
    sources = {"generator": generator.hash, "compass": compass_hash, "tokenizer": tok.content_hash}
    provenance = json.dumps([sources, job.fingerprint, config.seed, round_number, variant], sort_keys=True)
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

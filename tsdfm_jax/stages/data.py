"""Stage `data`: tokenises the corpus once and packs it into windows of L."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus, ingest, pool, windows
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.lineage.states import Kind
from tsdfm_jax.runtime import hosts, metrics, signals
from tsdfm_jax.workspace import jobs, trained


def run(config, workdir, remake=False):
    """Write the training and held-out windows to `data/`."""
    with jobs.job(config, workdir, "data", remake) as job:
        if job.finished is not None:
            return
        tok = trained.tokenizer(config, workdir)
        manifest, costs, commits = hosts.first(lambda: prepare(config, tok, job))
        figures = {"splits": {k: {n: v for n, v in s.items() if n != "shards"} for k, s in manifest["splits"].items()}}
        if commits:
            figures["commits"] = commits
        if costs.bytes:  # none if an earlier run had packed everything
            figures["costs"] = rates(costs)
            job.metrics.line(costs_line(costs))
        job.finish(figures)


def prepare(config, tok, job):
    """Write the windows; returns (manifest, costs of this run, commits of the hub's datasets that were read)."""
    source, costs = settings.corpus_config(config), ingest.Costs()
    if job.state.kind is Kind.DAMAGED:
        windows.forget(job.directory)
    size = corpus.size(source)
    with signals.stopping(), metrics.progress("data", size, "byte") as bar:
        try:
            manifest = windows.prepare(
                corpus.documents(source),
                tok,
                job.directory,
                settings.windows_config(config),
                lambda processed: bar.advance(processed - bar.done),
                signals.stop_requested,
                fingerprint=digest(job.state.artefact.sources),
                workers=pool.processes(config.data.workers, size),
                costs=costs,
            )
        except InterruptedError:
            raise signals.Interrupted("data: stopped; the same command goes on from there") from None
    return manifest, costs, corpus.commits(source)


def rates(costs):
    """The costs of this run, as plain JSON; those of an earlier, interrupted run are not in them."""
    name, busy, processes = costs.slowest()
    return {
        "workers": costs.workers,
        "bytes": costs.bytes,
        "tokens": costs.tokens,
        "megabytes_per_second": costs.bytes / 1e6 / costs.elapsed,
        "tokens_per_second": costs.tokens / costs.elapsed,
        "seconds": {part: getattr(costs, part) for part in ("reading", "tokenising", "packing", "elapsed")},
        "slowest": {"part": name, "busy": busy, "processes": processes},
    }


def costs_line(costs):
    """The costs in one line."""
    name, busy, processes = costs.slowest()
    return (
        f"{costs.bytes / 1e6:,.1f} MB in {costs.elapsed:.1f} s, {costs.bytes / 1e6 / costs.elapsed:.1f} MB/s, "
        f"{costs.tokens / costs.elapsed:,.0f} tokens/s; reading {costs.reading:.1f} s, tokenising {costs.tokenising:.1f} s in "
        f"{costs.workers} {'process' if costs.workers == 1 else 'processes'}, packing and writing {costs.packing:.1f} s; "
        f"slowest: {name}, {busy:.1f} of {processes}"
    )

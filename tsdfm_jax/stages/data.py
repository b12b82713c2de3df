"""Stage `data`: the corpus, tokenised once and packed into windows of L."""

from tsdfm_jax import settings, workspace
from tsdfm_jax.data import corpus, windows
from tsdfm_jax.runtime import hosts, metrics, signals


def run(config, workdir):
    """Leave `data/` with the training and held-out windows."""
    with workspace.job(config, workdir, "data") as job:
        if job.finished is not None:
            return
        tok = workspace.tokenizer(config, workdir)
        made = hosts.first(lambda: prepare(config, tok, job.directory))
        job.finish({"splits": {k: {n: v for n, v in s.items() if n != "shards"} for k, s in made["splits"].items()}})


def prepare(config, tok, directory):
    """Write the windows; returns their manifest."""
    source = settings.corpus_config(config)
    with signals.stopping(), metrics.progress("data", corpus.size(source), "byte") as bar:
        try:
            return windows.prepare(
                corpus.documents(source),
                tok,
                directory,
                settings.windows_config(config),
                lambda taken: bar.advance(taken - bar.done),
                signals.stop_requested,
                fingerprint=corpus.fingerprint(source),
            )
        except InterruptedError:
            raise signals.Interrupted("data: stopped; the same command goes on from there") from None

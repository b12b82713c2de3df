"""Stage `tokenizer`: trains a SentencePiece model on the corpus, or copies a given tokenizer."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus, survival, tokenizer as tokenizers
from tsdfm_jax.runtime import hosts
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `tokenizer/`, which every later stage reads."""
    with jobs.job(config, workdir, "tokenizer", remake) as job:
        if job.finished is not None:
            return
        hosts.first(lambda: make(config, job))
        tok = tokenizers.load(job.directory)
        found = hosts.first(lambda: survival.survival(tok, corpus.documents(settings.corpus_config(config))))
        survival.check(found, config.data.text_loss, config.tokenizer.path or "trained here")
        job.finish({"symbols": tok.vocab_size, "hash": tok.content_hash, "text": found})


def make(config, job):
    """Put the tokenizer's files into the job's directory."""
    c, source = config.tokenizer, settings.corpus_config(config)
    if c.path:
        tokenizers.require_special_end(tokenizers.from_file(c.path), c.path)
        tokenizers.adopt(c.path, job.directory)
    else:
        job.metrics.line(f"training {c.vocab_size} tokens on {source.files or source.package}")
        tokenizers.train(corpus.documents(source), job.directory, c.vocab_size, c.train_bytes, config.seed)

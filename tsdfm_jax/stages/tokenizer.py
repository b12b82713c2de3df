"""Stage `tokenizer`: trains a SentencePiece model on the corpus, or copies a given tokenizer."""

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus, survival, tokenizer as tokenizers
from tsdfm_jax.runtime import hosts
from tsdfm_jax.workspace import jobs


def run(config, workdir, remake=False):
    """Write `tokenizer/`, which every later stage reads, and note what of the corpus's text it loses."""
    with jobs.job(config, workdir, "tokenizer", remake) as job:
        if job.finished is not None:
            if "text" in job.finished:  # an earlier version did not count; the share that may be lost can be lowered
                check(config, job.finished["text"])
            return
        lost = hosts.first(lambda: make(config, job))
        tok = tokenizers.load(job.directory)
        job.finish({"symbols": tok.vocab_size, "hash": tok.content_hash, "text": lost})


def make(config, job):
    """Put the tokenizer's files into the job's directory; returns what it loses of the text, see survival."""
    c, source = config.tokenizer, settings.corpus_config(config)
    if c.path:
        tok = tokenizers.from_file(c.path)
        tokenizers.require_special_end(tok, c.path)
    else:
        job.metrics.line(f"training {c.vocab_size} tokens on {source.files or source.package}")
        tokenizers.train(corpus.documents(source), job.directory, c.vocab_size, c.train_bytes, config.seed)
        tok = tokenizers.load(job.directory)
    lost = survival.survival(tok, corpus.documents(source))
    check(config, lost)
    if c.path:
        tokenizers.adopt(c.path, job.directory)
    return lost


def check(config, lost):
    """Raise ValueError, one line, if more of the text is lost than the config accepts."""
    survival.check(lost, config.data.text_loss, config.tokenizer.path or "trained here")

"""Stage `autoregressive`: trains a causal transformer of about the teacher's size for comparison; it is not a judge."""

import math

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import causal_training, elbo
from tsdfm_jax.workspace import jobs, trained


def run(config, workdir, remake=False):
    """Write `autoregressive/model`, its curve and its held-out -log p, which is exact."""
    with jobs.job(config, workdir, "autoregressive", remake) as job:
        if job.finished is not None:
            return
        c, cfg = config.autoregressive, settings.autoregressive(config, trained.tokenizer(config, workdir).vocab_size)
        figures = causal_training.train(config, workdir, job, c, cfg, config.seed + 7000, "autoregressive", job.directory)
        bits = elbo.bits_per_byte(jobs.require(config, workdir, "data")) * math.log(figures["heldout_perplexity"])
        job.finish(figures | {"heldout_bits_per_byte": bits})

"""Stage `judges`: causal transformers of increasing size, trained on the training split alone, and a pilot.

The pilot is one more network, which scores the compass's steered table, so that no judge of the report influences a choice.
"""

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import causal_training
from tsdfm_jax.workspace import jobs, trained


def run(config, workdir, remake=False):
    """Write `judges/0`, `judges/1`, … and `judges/pilot`."""
    with jobs.job(config, workdir, "judges", remake) as job:
        if job.finished is not None:
            return
        names = list(range(len(config.judges.widths))) + ["pilot"]
        job.finish({"judges": {str(name): train(config, workdir, job, name) for name in names}})


def train(config, workdir, job, name):
    """Train one judge from scratch into `judges/<name>/model`; returns its metrics."""
    c, cfg = config.judges, settings.judge(config, name, trained.tokenizer(config, workdir).vocab_size)
    # Every judge has its own seed: it shares no initial weights or data order with another judge, or with the teacher.
    seed = config.seed + 1000 + (len(c.widths) if name == "pilot" else name)
    return causal_training.train(config, workdir, job, c, cfg, seed, f"judge {name}", job.directory / str(name))

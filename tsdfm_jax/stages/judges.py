"""Stage `judges`: causal transformers of increasing size, trained on the training split alone, and a pilot.

The pilot is a further network that the compass's own table is read by, so that no choice is made by a judge of the report.
"""

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import causal_training
from tsdfm_jax.workspace import jobs, trained


def run(config, workdir):
    """Leave `judges/0`, `judges/1`, … and `judges/pilot`."""
    with jobs.job(config, workdir, "judges") as job:
        if job.finished is not None:
            return
        names = list(range(len(config.judges.widths))) + ["pilot"]
        job.finish({"judges": {str(name): train(config, workdir, job, name) for name in names}})


def train(config, workdir, job, name):
    """One judge, from scratch to `judges/<name>/model`: its figures."""
    c, cfg = config.judges, settings.judge(config, name, trained.tokenizer(config, workdir).vocab_size)
    # Seeds of their own: none of them shares its start or its data order with another, or with the teacher.
    seed = config.seed + 1000 + (len(c.widths) if name == "pilot" else name)
    return causal_training.train(config, workdir, job, c, cfg, seed, f"judge {name}", job.directory / str(name))

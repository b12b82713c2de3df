"""An autoregressive transformer of the teacher's size: one network evaluation per token, and exact likelihoods.

    python -m tsdfm_jax.main --config=configs/baselines/autoregressive.py:quickstart --workdir=runs/autoregressive_quickstart

The argument names the config that data, judges and budget come from: quickstart, sotu or fineweb_170m.

It is GPT-2's architecture with the teacher's width and heads, and the number of blocks that comes nearest to the teacher's
number of parameters. All of it is our choice: the teacher's batch, optimiser and schedule, over as many tokens as teacher and
student see together. It writes with a cache of keys and values, so its steps cost less than those of the other models.
"""

from configs import baselines


def get_config(base_name="quickstart"):
    """The config named `base_name` with only the autoregressive model."""
    c = model(baselines.start(base_name, ("autoregressive",)))
    c.evaluate.frontier = f"autoregressive:{c.data.length}"
    return c


def model(c):
    """The config `c`, with its autoregressive model changed to this one."""
    a, teacher, student = c.autoregressive, c.teacher, c.student
    a.update(blocks=0, width=c.model.width, heads=c.model.heads, dropout=c.model.dropout, batch=teacher.batch)
    a.optimiser.update(teacher.optimiser)
    a.optimiser.steps = teacher.optimiser.steps + student.optimiser.steps * student.batch // teacher.batch
    return c

"""An autoregressive transformer of the teacher's size: one network evaluation a token, and exact likelihoods.

    python -m tsdfm_jax.main --config=configs/baselines/autoregressive.py:quickstart --workdir=runs/autoregressive_quickstart

The argument says which config's data, judges and budget it has: quickstart, sotu or fineweb_170m.

GPT-2's architecture at the teacher's width and heads, with as many blocks as bring it nearest to the teacher's parameters.
All of it is ours: the teacher's batch, optimiser and schedule, over as many tokens as teacher and student see together.
It writes with a cache of keys and values, so that its steps cost less than another model's.
"""

from configs import baselines


def get_config(of="quickstart"):
    """The config `of` that name with the autoregressive model alone."""
    c = trained(baselines.start(of, ("autoregressive",)))
    c.evaluate.frontier = f"autoregressive:{c.data.length}"
    return c


def trained(c):
    """The config `c`, whose autoregressive model is this one."""
    a, teacher, student = c.autoregressive, c.teacher, c.student
    a.update(blocks=0, width=c.model.width, heads=c.model.heads, dropout=c.model.dropout, batch=teacher.batch)
    a.optimiser.update(teacher.optimiser)
    a.optimiser.steps = teacher.optimiser.steps + student.optimiser.steps * student.batch // teacher.batch
    return c

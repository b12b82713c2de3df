"""The whole method at a size for several processes on one machine, small enough to run many times."""

from tests import tiny


def get_config():
    """A config with a few seconds a stage, mostly compilation; every stage saves more than once."""
    c = tiny.get_config()
    with c.unlocked():
        c.log_every, c.save_every = 1, 4
        c.data.limit_bytes = 200_000
        c.tokenizer.vocab_size = 384
        c.model.update(blocks=1, width=16, heads=2, cond_width=8)
        c.judges.update(widths=(8,), blocks=(1,), heads=(1,))
        c.shaping.candidates = 2
        c.trajectories.update(count=32, midpoints=2, batch=8, shard=8)
        c.evaluate.update(teacher_steps=(2,), student_steps=(1,), frontier="")
        c.report.traces = 1
        for section in (c.teacher, c.judges, c.student):
            section.optimiser.update(steps=12, warmup=2)
    return c

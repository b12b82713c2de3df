"""The whole method at a size that runs in seconds: for tests of the stages, not for results."""

from configs import base


def get_config():
    """Every stage, with a few updates each, on the default corpus."""
    c = base.get_config()
    with c.unlocked():
        c.log_every, c.save_every = 4, 4
        c.data.length, c.data.holdout, c.data.limit_bytes = 16, 0.2, 400_000
        c.tokenizer.vocab_size = 384
        c.model.update(blocks=2, width=32, heads=2, cond_width=16)
        c.teacher.update(batch=16, heldout=32)
        c.judges.update(widths=(8, 16), blocks=(1, 1), heads=(1, 1), batch=16)
        c.compass.update(blocks=1, width=32, heads=2, batch=16, heldout=16, steered_samples=16, steered_steps=2)
        c.shaping.candidates = 3
        c.trajectories.update(count=64, midpoints=4, batch=16, shard=16)
        c.student.batch = 16
        c.evaluate.update(samples=8, batch=8, teacher_steps=(2, 4), student_steps=(1, 2))
        c.evaluate.update(frontier="teacher:2, student_shaped:2", frontier_temperatures=(0.5, 2.0))
        c.report.update(traces=2, bootstrap=100)
        c.sample.update(number=2, steps=2)
        for section in (c.teacher, c.judges, c.compass, c.student):
            section.optimiser.update(steps=16, warmup=2, learning_rate=1e-2)
    return c


def changed(**changes):
    """The tiny config with some keys changed, by their dotted names."""
    c = get_config()
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c

"""The study's config: the State of the Union addresses, with a teacher that is better with more steps.

    python -m tsdfm_jax.main --config=configs/sotu.py --workdir=runs/sotu
    python -m launch.study --workdir=runs/study-sotu

2.1M parameters, 16.4M tokens for the teacher. Measured on one core: the teacher 60 to 75 minutes (Intel Xeon), the judges 24, the
shaped trajectories 6 to 8 (the blind ones 1), a student 5 (AMD EPYC), without evaluation. results/STUDY.md says what was tried.
For the mask source the study changes some keys (OF_SOURCE in tsdfm_jax/experiments/study/arms.py).
"""

from configs import base


def get_config():
    """The quickstart's pipeline at a size for a day on a laptop."""
    c = base.get_config()
    c.save_every = 500
    c.evaluate_every = 4000
    c.data.length = 64
    c.tokenizer.vocab_size = 4096
    c.model.update(blocks=4, width=128, heads=4, unroll=4)
    c.teacher.update(batch=64, heldout=512)
    c.teacher.optimiser.update(steps=4000, learning_rate=3e-3, warmup=100, final_fraction=0.02, ema=0.999)
    c.judges.update(widths=(64, 96, 160), blocks=(2, 3, 4), heads=(2, 3, 5), batch=32, dropout=0.1)
    c.judges.optimiser.update(steps=1200, learning_rate=3e-3, warmup=100, final_fraction=0.02, ema=0.995)
    c.compass.update(score="entropy", prior=0.05, steered_samples=128)
    c.shaping.update(policy="sequence_to_token", span=4, tau=0.5)
    c.shaping.chunk = 2  # faster on a CPU than all candidates at once
    c.trajectories.update(count=1024, midpoints=16, shard=512, batch=16)  # the logits of 64 do not fit the cache: 1.6 times as slow
    c.student.step_weights = (0.5, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    c.student.optimiser.update(steps=300, learning_rate=1e-3, warmup=30, ema=0.97)
    c.evaluate.update(samples=64, batch=64, seeds=(0, 1, 2))
    c.evaluate.frontier_temperatures = (0.8, 1.1, 1.2, 1.4, 1.6)
    return c

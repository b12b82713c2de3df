"""Every stage of TS-DFM on real English, on a laptop.

    python -m tsdfm_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Measured on 2 cores of an Intel Xeon without a GPU: 24 minutes beside other work, 16 min 48 s alone (an older commit); 1.5 GiB.
On 2 cores of an AMD EPYC, alone: 5 min 4 s.
Expect a held-out ELBO near 2.4 bits per byte, and at 8 steps a lower perplexity of the shaped student than of the blind one.
results/README.md says what was tried.
"""

from configs import base


def get_config():
    """A small teacher on the State of the Union addresses."""
    c = base.get_config()
    c.evaluate_every = 1200
    c.tokenizer.vocab_size = 3072
    c.model.update(blocks=3, width=96, heads=3, unroll=3)
    c.teacher.update(batch=32, heldout=256)
    c.teacher.optimiser.update(steps=1200, learning_rate=4e-3, warmup=50, final_fraction=0.05, ema=0.99)
    c.judges.update(widths=(32, 64, 96), blocks=(1, 2, 3), heads=(1, 2, 3), batch=32)
    c.judges.optimiser.update(steps=220, learning_rate=4e-3, warmup=30)
    c.compass.update(score="entropy", width=96, heads=3, batch=48, heldout=48, steered_samples=48)
    c.shaping.chunk = 2  # faster on a CPU than all candidates at once
    c.trajectories.update(count=768, midpoints=8, shard=256)
    c.student.batch = 32
    c.student.optimiser.update(steps=220, learning_rate=1e-3, warmup=20)
    c.evaluate.update(samples=48, batch=48)
    c.evaluate.frontier = "teacher:8, student_shaped:8, student_blind:8"
    c.evaluate.frontier_temperatures = (0.8, 0.9, 1.1, 1.2, 1.4)
    return c

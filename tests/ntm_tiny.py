"""The whole of NTM at a size that runs in seconds: for tests of the stages, not for results."""

from configs import ntm_base


def get_config():
    """Every stage, with a few updates each, on scikit-learn's digits."""
    c = ntm_base.get_config()
    with c.unlocked():
        c.log_every, c.save_every, c.evaluate_every = 4, 4, 8
        c.images.update(limit=128, holdout=0.25, images_per_shard=32)
        c.autoencoder.update(halvings=1, width=8)
        c.model.update(blocks=2, width=16, heads=2, cond_width=16, mlp_ratio=2)
        c.ntm.update(steps=(2,))
        c.evaluate.update(samples=32, batch=16, steps=(2,), flow_matching_steps=(3,), heldout=16)
        c.evaluate.classifier.update(width=8)
        c.report.update(grid=2, traces=2)
        c.sample.update(steps=2, number=4, batch=8)
        for section in (c.autoencoder, c.flow_matching, c.ntm, c.denoiser, c.evaluate.classifier):
            section.batch = 16
            section.optimiser.update(steps=8, warmup=2)
    return c


def changed(**changes):
    """The tiny config with some keys changed, by their dotted names."""
    c = get_config()
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c

"""NTM at the paper's scale: 1.4B parameters on ImageNet at 256 × 256, in latents of 16 × 16 × 32.

    python -m tsdfm_jax.main --config=configs/ntm_imagenet256.py --workdir=runs/ntm_imagenet256
    python -m tsdfm_jax.main --config=configs/ntm_imagenet256.py:smoke --config.images.files=random.npz
    python -m launch.aot_compile --config=configs/ntm_imagenet256.py --topology=v5e:16x16

The first command has not been run: it needs latents that you bring. The second runs the smoke form (`smoke`, below) through
every stage in a minute or two on a laptop, in runs/ntm_imagenet256_smoke. The third compiles the first for a TPU slice without
having one. Random latents for the second:

    python -c "import numpy as n; r = n.random.default_rng(0); n.savez('random.npz', image=r.normal(size=(128, 16, 16, 32)).astype('f'), label=r.integers(0, 8, 128))"

Time runs from 0 = data to 1 = noise. The trajectory model has 1,391,217,728 parameters: 1,040,984,000 of the predictor and
2 × 175,116,864 of the transporter; flow matching has 1,040,786,848. Latents are .npz files in imagenet/ (or --config.images.files)
with arrays `image`, float [n, 16, 16, 32], and `label`, whole numbers below 1,000. They should have a size of about one; scale
them before they are written.

From the paper (arXiv 2605.08078): width 3072; layers [4, 4, 24], two flow blocks of 4 and a predictor of 24; rotary embeddings of
rows and columns; 8 heads of keys and values; patches of one latent; T from 4, 8 and 16, shift 0.5, t_min from 0 to 0.05; labels
hidden for a tenth; the anchor, 2.5 falling to 0; AdamW with 0.9 and 0.95, decay 1e-4, learning rate 1e-4, of fine-tuning 5e-5, to
1e-6 by a cosine; batches of 1,024; bfloat16; weights split over all devices; 1.4B parameters in all.

Ours, and untried. The paper's numbers leave the MLP no more than the width: with the usual 4 times the width, 32 blocks of 3,072
have 3.2B parameters. So `mlp_ratio` is 1 here. The form `narrow` has the other shape of that size: width 2,048, MLPs of 4 times
the width, 1,438,486,144 parameters. Also ours: 48 heads of 64; conditioning of 128, since adaLN has 6 · width · conditioning
parameters a block (2.4M of 43M here, 19M with a conditioning of 1,024); position embeddings beside the rotary ones; numbers of
updates, 160 passes over ImageNet each, and warm-up; the moving average; rematerialisation of all but products with weights; the
start from flow matching, because likelihood alone did not learn the classes on a small scale. The loss is `pair`: the number of steps is drawn
for each image, and whole trajectories of 4, 8 and 16 steps do not fit one batch; it also needs 2 levels of an image in
memory instead of 17. The expectation is the same, and its variance larger.
"""

from configs import base, ntm_base


def get_config(form=""):
    """The config for latents of ImageNet."""
    c = ntm_base.get_config()
    c.log_every, c.save_every, c.evaluate_every = 100, 2000, 10_000
    c.models = ("flow_matching", "ntm", "denoiser")
    c.mesh.update(data=1, fsdp=-1)
    c.images.update(files="imagenet/*.npz", latents=True, patch=1, holdout=0.01)
    c.model.update(blocks=24, width=3072, heads=48, kv_heads=8, cond_width=128, mlp_ratio=1, dtype="bfloat16", remat="dots")
    c.transporter.update(flows=2, blocks=4)
    c.ntm.update(steps=(4, 8, 16), loss="pair", shift=0.5, t_min=(0.0, 0.05))
    for section in (c.flow_matching, c.ntm, c.denoiser):
        section.batch = 1024
        section.optimiser.update(steps=200_000, learning_rate=1e-4, final_fraction=0.01, warmup=5000, weight_decay=1e-4, ema=0.9999)
    c.ntm.optimiser.update(learning_rate=5e-5, final_fraction=0.02)
    c.denoiser.optimiser.steps = 20_000
    c.evaluate.update(samples=50_000, batch=2048, steps=(4, 8, 16), guidance=(0.0, 0.5), heldout=4096)
    c.evaluate.classifier.batch = 256
    c.report.grid = 1
    c.sample.update(number=64, batch=64, guidance=0.5)
    return base.with_form(c, form, FORMS)


def narrow(c):
    """The other shape of 1.4B parameters, in place: two thirds of the width, MLPs of four times the width."""
    c.model.update(width=2048, heads=32, cond_width=64, mlp_ratio=4)


def smoke(c):
    """Make the config small in place: width 64, one or two blocks, two updates for each network.

    Heads of keys and values, kinds of layers, patches, types, rematerialisation and the loss stay; T is 2 or 4. Batches are for at
    most eight devices. The results mean nothing.
    """
    c.log_every = 1
    c.images.update(holdout=0.25, images_per_shard=64)
    c.model.update(blocks=2, width=64, heads=16, cond_width=16)
    c.transporter.blocks = 1
    c.ntm.steps = (2, 4)
    c.evaluate.update(samples=8, batch=8, steps=(4,), flow_matching_steps=(), guidance=(0.5,), noise_free=False, heldout=8)
    c.evaluate.classifier.update(width=8)
    c.report.traces = 1
    c.sample.update(number=2, batch=8)
    for section in (c.flow_matching, c.ntm, c.denoiser, c.evaluate.classifier):
        section.batch = 8
        section.optimiser.update(steps=2, warmup=1)


FORMS = {"smoke": smoke, "narrow": narrow}

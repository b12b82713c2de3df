"""A 1.3B model on the data of fineweb_170m: weights, moments and moving average are split over all devices.

    python -m tsdfm_jax.main --config=configs/fineweb_1b.py --workdir=runs/fineweb_1b
    python -m tsdfm_jax.main --config=configs/fineweb_1b.py:smoke
    python -m launch.budget --config=configs/fineweb_1b.py --slice=v5p-32
    python -m launch.aot_compile --config=configs/fineweb_1b.py --topology=v5p:2x2x4

The first command has not been run. The others are as in fineweb_170m. The teacher has 1,330,673,233 parameters (the student
1,333,956,689): 21 blocks of width 2,048 with 32 heads, FS-DFM's shape of that size. `--config.flow.source=mask` adds 4,097
(1,330,677,330 and 1,333,960,786). A weight, its moments and its average take 16 bytes, 21 GB in all. One v5e has less memory
than that, so the mesh splits them. Text, tokenizer, learning rates and numbers of updates are those of fineweb_170m, and nobody
has tuned them at this size. Batches are for 16 to 64 devices.
"""

from configs import base, fineweb_170m


def get_config(form=""):
    """The 170M config, wider and deeper; the backward pass recomputes activations."""
    c = fineweb_170m.get_config()
    c.mesh.update(data=1, fsdp=-1)
    c.model.update(blocks=21, width=2048, heads=32, cond_width=256, remat="full")
    c.compass.update(width=2048, heads=32)
    return base.with_form(c, form, fineweb_170m.FORMS)

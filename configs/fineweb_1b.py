"""A 1.3B shape on the data of fineweb_170m: weights, moments and average shared out over all devices.

    python -m tsdfm_jax.main --config=configs/fineweb_1b.py --workdir=runs/fineweb_1b
    python -m launch.aot_compile --config=configs/fineweb_1b.py --topology=v5p:2x2x4

It has not been run; the second command compiles it for a TPU slice without one. 1,330,673,233 parameters (the student
1,333,956,689): 21 blocks of width 2,048 with 32 heads. A weight, its moments and its average take 16 bytes, 21 GB in all,
more than one v5e has: hence the mesh. Text and tokenizer, rates and numbers of updates are those of fineweb_170m, and at
this size nobody has tuned them. Batches are for 16 to 64 devices.
"""

from configs import fineweb_170m


def get_config():
    """The 170M config, wider and deeper; activations are computed again in the backward pass."""
    c = fineweb_170m.get_config()
    c.mesh.update(data=1, fsdp=-1)
    c.model.update(blocks=21, width=2048, heads=32, cond_width=256, remat="full")
    c.compass.update(width=2048, heads=32)
    return c

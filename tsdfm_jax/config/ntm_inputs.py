"""The files that a config of NTM names: whether they are there and may be read, before a run writes anything."""

import pathlib

from tsdfm_jax.config import ntm_settings
from tsdfm_jax.lineage import bookkeeping


def check(config, workdir, stages):
    """Check what stage `images` will read, if it is among these stages and unfinished.

    Raises ValueError or FileNotFoundError, one line with the key, for images that are missing or unreadable.
    """
    if "images" in stages and bookkeeping.done(pathlib.Path(workdir) / "images") is None:
        from tsdfm_jax.data import images  # late: finished images need no readers

        images.check(ntm_settings.images_config(config))

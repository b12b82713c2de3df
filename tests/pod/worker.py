"""One process of a run, with a planned accident: `python -m tests.pod.worker ACCIDENT --config=… --multihost …`."""

import errno
import os
import shutil
import signal
import sys
import types

from absl import app

from tsdfm_jax import main
from tsdfm_jax.data import shards
from tsdfm_jax.runtime import checkpoint, ledger


def at_call(number, owner, name, accident):
    """Cause the accident at the `number`-th call of a function, before the call does anything."""
    whole, left = getattr(owner, name), [number]

    def replaced(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            accident()
        return whole(*args, **kwargs)

    setattr(owner, name, replaced)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def refused():
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room_left():
    """Report a full disk from now on."""
    shutil.disk_usage = lambda path: types.SimpleNamespace(free=0)


ACCIDENTS = {
    "none": lambda: None,
    "killed_in_training": lambda: at_call(10, ledger.Ledger, "update", killed),
    # Orbax calls it in the background, after all arrays are written and before the checkpoint gets its name.
    "killed_in_a_checkpoint": lambda: at_call(2, checkpoint.Checkpoints, "_seal_items", killed),
    "killed_in_a_shard": lambda: at_call(2, shards.atomic, "sha256", killed),
    "terminated": lambda: at_call(10, ledger.Ledger, "update", terminated),
    "full_at_a_checkpoint": lambda: at_call(10, ledger.Ledger, "update", no_room_left),
    "full_at_a_shard": lambda: at_call(2, shards.atomic, "sha256", refused),
}

if __name__ == "__main__":
    ACCIDENTS[sys.argv.pop(1)]()
    app.run(main.main, flags_parser=main.parse)

"""What numbers were measured on: the commit, the versions, the devices."""

import os
import pathlib
import platform
import subprocess

import jax


def commit():
    """The commit of this code; a `+` marks uncommitted changes, None means no repository."""
    folder = pathlib.Path(__file__).parent
    git = lambda *args: subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    try:
        git("ls-files", "--error-unmatch", __file__)  # an installed package may lie in somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def describe():
    """The versions and devices that numbers were measured on."""
    import flax
    import jaxlib
    import optax

    device = jax.devices()[0]
    versions = {m.__name__: m.__version__ for m in (jax, jaxlib, flax, optax)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        **versions,
    }

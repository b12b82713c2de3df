"""The C library's allocator on a machine without accelerator: what one step frees the next one takes again.

glibc gives every large array back to the kernel and asks for it anew, zeroed page by page: a quarter to half of a small
training step on a CPU. Told to keep it, a process stays at the most memory that it ever had at once.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# mallopt(3): parameter -> value. One arena, or the threads' own ones would still ask the kernel; nothing mapped on its own,
# nothing given back, and grown by so many bytes at once.
OPTIONS = {-8: 1, -4: 0, -1: 2**31 - 1, -2: 1 << 28}
OWN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # what the user has said about it


def keep():
    """Tell glibc to keep freed memory; returns whether it was told.

    It is not where JAX may have an accelerator (there the host's arrays are few and its threads many), where the user has
    set something of the kind or another allocator, or where the C library is another. Before JAX starts its threads.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(OWN) for name in os.environ) or not _cpu_alone():
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) for parameter, value in OPTIONS.items())


def _cpu_alone():
    """Whether JAX has nothing but a CPU, as far as that is known before it has looked."""
    if os.environ.get("JAX_PLATFORMS"):
        return os.environ["JAX_PLATFORMS"] == "cpu"
    plugins = importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not importlib.util.find_spec("libtpu")

"""Make glibc keep freed memory on a machine without accelerator, so that the next step reuses it.

By default glibc returns every large array to the kernel and asks for it again, zeroed page by page: a quarter to half of a
small training step on a CPU. The price is that a process stays at its peak memory.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# mallopt(3): parameter -> value. One arena, because the threads' own arenas would still ask the kernel; no separate
# mappings; nothing returned to the kernel; the heap grows by this many bytes at once.
OPTIONS = {-8: 1, -4: 0, -1: 2**31 - 1, -2: 1 << 28}
USER_PREFIXES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # prefixes of the user's own settings


def keep():
    """Make glibc keep freed memory; returns whether it does. Call it before JAX starts its threads.

    Does nothing if JAX may have an accelerator (there the host's arrays are few and its threads many), if the user has set
    malloc options or another allocator, or if the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(USER_PREFIXES) for name in os.environ) or not _cpu_only():
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) for parameter, value in OPTIONS.items())


def _cpu_only():
    """Whether JAX has only a CPU, as far as that is known before JAX starts."""
    if os.environ.get("JAX_PLATFORMS"):
        return os.environ["JAX_PLATFORMS"] == "cpu"
    plugins = importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not importlib.util.find_spec("libtpu")

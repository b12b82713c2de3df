"""Compiled programs kept on disk, so that the next start need not compile them again: where, and how many."""

import hashlib
import logging
import os
import pathlib
import platform

import filelock
import jax

LOG = logging.getLogger(__name__)
FOLDER = "tsdfm_jax"
LOCK = ".lockfile"  # JAX's own name for it
SECONDS_FOR_LOCK = 10
# JAX's settings and what they are here; one that the user has set stays as it is.
SETTINGS = {
    "jax_compilation_cache_max_size": 2 << 30,  # bytes; what was not used for longest goes
    # Reading a program takes some hundredths of a second, and the least of the tests' tiny run some tenths to compile.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
# What /proc/cpuinfo tells of the kind of a CPU, not of one of its kind.
CPU = {"vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"}


def keep():
    """Keep what is compiled from now on in `directory()`, by JAX's persistent cache; returns where, None where it is not kept.

    Where the user has said where to keep it (JAX_COMPILATION_CACHE_DIR, or the same in `jax.config`) or that it is not to
    be (JAX_ENABLE_COMPILATION_CACHE=false), nothing is touched. A folder that cannot be written costs one warning.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return jax.config.jax_compilation_cache_dir or None
    try:
        where = directory()
        where.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is run: it is nobody else's to write
        _mend(where)
    except (OSError, RuntimeError) as error:
        LOG.warning("compiled programs are not kept (%s): set JAX_COMPILATION_CACHE_DIR to a folder that can be written", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(where))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return str(where)


def directory():
    """tsdfm_jax/ and the kind of this machine, below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / FOLDER / machine()


def machine():
    """The kind of this machine's CPU in a short name: a program for one may use instructions that another has not.

    A home directory is often shared by machines of several kinds.
    """
    told = [platform.system(), platform.machine(), platform.processor()]
    file = pathlib.Path("/proc/cpuinfo")
    if file.exists():
        first = file.read_text().split("\n\n")[0].splitlines()
        told += [line for line in first if line.partition(":")[0].strip() in CPU]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(told).encode()).hexdigest()[:12]}"


def _mend(where):
    """Delete what a killed process left half written; raises OSError or RuntimeError where there is no writing or locking."""
    with filelock.FileLock(where / LOCK, timeout=SECONDS_FOR_LOCK):
        for entry in where.glob("*-cache"):
            # JAX notes the time of use after it has written an entry, and cannot make room beside one without.
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink()

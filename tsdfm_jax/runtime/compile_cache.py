"""Keep compiled programs on disk, so that the next start need not compile them again."""

import hashlib
import logging
import os
import pathlib
import platform

import filelock
import jax

LOG = logging.getLogger(__name__)
FOLDER = "tsdfm_jax"
LOCK = ".lockfile"  # the name that JAX uses
SECONDS_FOR_LOCK = 10
# JAX's settings and their values here; a setting of the user's stays as it is.
SETTINGS = {
    "jax_compilation_cache_max_size": 2 << 30,  # bytes; the least recently used goes first
    # Reading a program takes some hundredths of a second; compiling the smallest one of the tests takes some tenths.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
# The fields of /proc/cpuinfo that describe the kind of CPU, not the single CPU.
CPU = {"vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"}


def enable():
    """Keep what is compiled from now on in `directory()`, by JAX's persistent cache; returns the folder, or None.

    Changes nothing if the user has set a folder (JAX_COMPILATION_CACHE_DIR, or the same in `jax.config`) or has turned the
    cache off (JAX_ENABLE_COMPILATION_CACHE=false). A folder that cannot be written gives one warning.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return jax.config.jax_compilation_cache_dir or None
    try:
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # its content is run, so nobody else may write it
        _remove_partial(folder)
    except (OSError, RuntimeError) as error:
        LOG.warning("compiled programs are not kept (%s): set JAX_COMPILATION_CACHE_DIR to a folder that can be written", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return str(folder)


def directory():
    """The folder for this kind of machine: tsdfm_jax/<machine()> below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / FOLDER / machine()


def machine():
    """A short name for the kind of this machine's CPU: a program for one kind may use instructions that another lacks.

    Machines of several kinds often share a home directory.
    """
    facts = [platform.system(), platform.machine(), platform.processor()]
    file = pathlib.Path("/proc/cpuinfo")
    if file.exists():
        lines = file.read_text().split("\n\n")[0].splitlines()
        facts += [line for line in lines if line.partition(":")[0].strip() in CPU]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"


def _remove_partial(folder):
    """Delete what a killed process left half written; raises OSError or RuntimeError if it cannot write or lock."""
    with filelock.FileLock(folder / LOCK, timeout=SECONDS_FOR_LOCK):
        for entry in folder.glob("*-cache"):
            # JAX writes the time of use after the entry, and cannot make room in a cache with an entry that lacks it.
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink()

"""Faults of disks: checksums find a damaged file before it is read, and a full disk is one clear line."""

import errno
import json
import os
import pathlib
import shutil
import zlib
from contextlib import contextmanager

from tsdfm_jax.storage import atomic

SEAL = "seal.json"


def seal(directory):
    """Write the length and CRC-32 of every file under a finished directory into its seal.json."""
    directory = pathlib.Path(directory)
    atomic.overwrite(directory / SEAL, atomic.json_text(_sums(directory), indent=0))


def damage(directory):
    """Say what is damaged in a directory, in a few words; None if it is as it was sealed, or was never sealed."""
    directory = pathlib.Path(directory)
    try:
        sealed = json.loads((directory / SEAL).read_text())
    except FileNotFoundError:
        return None  # the process died between finishing and sealing: the reader has its own checks
    except ValueError:
        return f"{directory.name}/{SEAL} is not JSON"
    for name, (length, crc) in sealed.items():
        path = directory / name
        if not path.exists():
            return f"{directory.name}/{name} is missing"
        if path.stat().st_size != length:
            return f"{directory.name}/{name} has {path.stat().st_size} bytes, not {length}"
        if _crc(path) != crc:
            return f"{directory.name}/{name} has another checksum than it was written with"
    return None


def _sums(directory):
    # Hidden files are drafts that are still to be renamed.
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(p.relative_to(directory)): (p.stat().st_size, _crc(p)) for p in paths if p.name != SEAL}


def _crc(path):
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def require_room(directory, size, what):
    """Raise OSError unless the disk of a directory, which need not exist yet, has `size` bytes free for `what`.

    Check before writing: on a full disk several of Orbax's threads fail, each with its own traceback.
    """
    directory = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(directory).free
    if free < size:
        raise _full(f"{what} ({size / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free)")


@contextmanager
def writing(what):
    """Turn the various errors of libraries for a full disk into one line of OSError."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise _full(what) from error


def _full(what):
    return OSError(errno.ENOSPC, f"no room to write {what}: free some, and the same command goes on from the last save")

"""Files known by their content: size and time first, the sha256 where these differ, so that nothing is read twice."""

import os
import pathlib
from collections.abc import Iterable

from tsdfm_jax.storage import atomic

Stamp = list  # [size in bytes, time of the last change in ns, sha256 in hex]


def take(root: pathlib.Path, names: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of files below `root`, by name; reads every byte."""
    return {name: _stamp(root / name) for name in sorted(names)}


def _stamp(path):
    before = os.stat(path)
    return [before.st_size, before.st_mtime_ns, atomic.sha256(path)]


def fault(root: pathlib.Path, stamps: dict[str, Stamp]) -> tuple[str, bool]:
    """(what is wrong with the first file that is not as it was, or "", whether the stamps changed).

    A file with another time and the same bytes, such as one of a copied directory, gets its new time in `stamps`.
    """
    changed = False
    for name, (size, time, sha256) in stamps.items():
        try:
            now = os.stat(root / name)
        except OSError:
            return f"{name} is missing", changed
        if now.st_size != size:
            return f"{name} has {now.st_size:,} bytes, not {size:,}", changed
        if now.st_mtime_ns != time:
            if atomic.sha256(root / name) != sha256:
                return f"{name} is not what was written", changed
            stamps[name], changed = [size, now.st_mtime_ns, sha256], True
    return "", changed


class Memory:
    """The hashes of files elsewhere, kept in a file of the work directory; losing it costs time alone."""

    def __init__(self, file: pathlib.Path | None):
        self._file, self._changed = file, False
        self._stamps = atomic.read_if_sealed(file) if file else {}

    def sha256(self, path: pathlib.Path) -> str:
        """The sha256 of a file, in hex, read only if its size or time is new; raises OSError if it cannot be read."""
        name, now = str(pathlib.Path(path).absolute()), os.stat(path)
        if self._stamps.get(name, [])[:2] != [now.st_size, now.st_mtime_ns]:
            self._stamps[name], self._changed = _stamp(path), True
        return self._stamps[name][2]

    def unread_bytes(self, paths: Iterable[pathlib.Path]) -> int:
        """The bytes that `sha256` would read for these files."""
        facts = ((str(pathlib.Path(path).absolute()), os.stat(path)) for path in paths)
        return sum(s.st_size for name, s in facts if self._stamps.get(name, [])[:2] != [s.st_size, s.st_mtime_ns])

    def save(self) -> None:
        """Write what was learnt since the last time."""
        if self._changed and self._file is not None and self._file.parent.is_dir():
            atomic.write_sealed(self._file, self._stamps)
            self._changed = False

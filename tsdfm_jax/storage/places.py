"""Paths as a user types them: `~`, lists with commas, globs and names that look like one, and what may not be read or written."""

import glob
import os
import pathlib
import re
from collections.abc import Iterable

_COMMA = re.compile(r"(?<!\\),")


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """The path with `~` or `~user` at its beginning replaced by that home directory."""
    return pathlib.Path(os.path.expanduser(path))


def split(value: str) -> list[str]:
    """The names or globs in a comma-separated string.

    A name that exists with its commas is one name, and so is one whose commas are written `\\,`.
    """
    parts, found = _COMMA.split(value), []
    while parts:
        taken = next((n for n in range(len(parts), 1, -1) if os.path.lexists(expanded(",".join(parts[:n]).strip()))), 1)
        name = ",".join(parts[:taken]).strip()
        found += [name if os.path.lexists(expanded(name)) else name.replace("\\,", ",")] if name else []
        parts = parts[taken:]
    return found


def escaped(name: str) -> str:
    """A glob that matches only this name, to be written in a comma-separated string."""
    return glob.escape(str(name)).replace(",", "\\,")


def matches(pattern: str) -> list[str]:
    """What a glob matches, `**` at any depth, in order; the pattern itself, if something has that name."""
    name = str(expanded(pattern))
    return [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))


def once(names: Iterable[str]) -> list[str]:
    """The names in order, without `./`, each file once: under the first of its names, whether relative, absolute or a link."""
    by_file: dict[str, str] = {}
    for name in sorted(str(pathlib.Path(name)) for name in names):
        by_file.setdefault(os.path.realpath(name), name)
    return list(by_file.values())


def require_readable(path: str | os.PathLike, key: str) -> None:
    """Raise ValueError or FileNotFoundError, one line with the key that names the file, unless it is a file that may be read."""
    file = expanded(path)
    if file.is_symlink() and not file.exists():
        raise FileNotFoundError(f"{key}: {file} is a link to {os.readlink(file)}, which is not there: mend it or give another file")
    if file.is_dir():
        raise ValueError(f"{key}: {file} is a directory: give a file")
    if not file.exists():
        raise FileNotFoundError(f"{key}: there is no file {file}: check its name")
    if not os.access(file, os.R_OK):
        raise ValueError(f"{key}: {file} may not be read by this user: give another file, or the right to read it (chmod)")


def require_writable(path: str | os.PathLike, key: str) -> None:
    """Raise ValueError, one line with the key that names the directory, unless it can be made or may be written; makes nothing."""
    directory = pathlib.Path(path).absolute()
    there = next(place for place in (directory, *directory.parents) if os.path.lexists(place))
    if there.is_symlink() and not there.exists():
        raise ValueError(f"{key}={path}: {there} is a link to {os.readlink(there)}, which is not there: give another directory")
    if not there.is_dir():
        raise ValueError(f"{key}={path}: {there} is a file, not a directory: give another directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{key}={path}: {there} may not be written by this user: give another directory")

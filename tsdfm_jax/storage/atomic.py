"""Files that are either whole or absent: atomic writes, content hashes, sealed JSON manifests."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`, and move the file to `path` when the block ends without an error.

    The temporary name is fixed, so that the file of a killed process is overwritten and none pile up.
    Errors: whatever the block raises; the temporary file is then deleted, and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a directory; the rename itself is still atomic there
    finally:
        os.close(descriptor)


def write(path: pathlib.Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; raises OSError, also for a full disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: pathlib.Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: pathlib.Path) -> str:
    """The sha256, in hex, of a file's bytes, or of the names and bytes of all files below a directory.

    Errors: FileNotFoundError where there is nothing to hash.
    """
    if path.is_file():
        return sha256(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    if not names:
        raise FileNotFoundError(f"nothing to hash at {path}: no file, and no directory with files")
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{len(name.encode())} {name} {sha256(path / name)}\n".encode())
    return digest.hexdigest()


def json_text(value: Any, **options: Any) -> str:
    """`value` as JSON, which has no NaN and no infinity; ValueError, one line, with the path of the first such number.

    `options` are those of json.dumps. `finite` makes such numbers null, where a figure may be missing.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        if (found := _not_finite(value, "")) is None:
            raise
        raise ValueError(f"{found[0] or 'the value'} is {found[1]}, which JSON cannot hold: write null for it") from None


def finite(value: Any) -> Any:
    """The same value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _not_finite(value: Any, path: str) -> tuple[str, float] | None:
    """(path, number) of the first number that is not finite; None if there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    if isinstance(value, dict):
        parts = [(f"{path}.{key}".removeprefix("."), part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
    else:
        parts = []
    return next((found for name, part in parts if (found := _not_finite(part, name)) is not None), None)


def _render(body: dict[str, Any]) -> bytes:
    return (json_text(body, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def write_sealed(path: pathlib.Path, body: dict[str, Any]) -> dict[str, Any]:
    """Write `body` as JSON with a sha256 of its canonical form, and return both as one dict."""
    body = json.loads(_render(body))
    sealed = body | {"sha256": hashlib.sha256(_render(body)).hexdigest()}
    write(path, _render(sealed))
    return sealed


def read_if_sealed(path: pathlib.Path) -> dict[str, Any]:
    """Read a file of `write_sealed`, without the sha256; {} if it is missing or damaged."""
    try:
        sealed = read_sealed(path, missing="", damaged="")
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in sealed.items() if key != "sha256"}


def read_sealed(path: pathlib.Path, *, missing: str, damaged: str) -> dict[str, Any]:
    """Read a file of `write_sealed`; `missing` and `damaged` are the remedies at the end of the error's line.

    Errors: FileNotFoundError where the file is missing, ValueError where any byte differs from what was written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {missing}")
    data = path.read_bytes()
    try:
        sealed = json.loads(data)
        body = {key: value for key, value in sealed.items() if key != "sha256"}
        whole = sealed["sha256"] == hashlib.sha256(_render(body)).hexdigest() and _render(sealed) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged (its sha256 does not fit its content): {damaged}")
    return sealed


def read_json(path):
    """The object in a JSON file; {} if the file is missing, is not JSON, or holds none."""
    try:
        value = json.loads(pathlib.Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def create(path: pathlib.Path, data: bytes) -> bool:
    """Write a new file, whole; False, and nothing changes, if there is one of that name, also one made at this moment."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: the name is taken first, and filled at once
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            os.replace(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return True


def overwrite(path, content):
    """Write bytes or text so that the file is at any moment either the old one or the new one, never a part."""
    path = pathlib.Path(path)
    content = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

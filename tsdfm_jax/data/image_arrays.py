"""Images, latents and labels in .npz files, checked before anything is made of them."""

import pathlib
import zipfile
import zlib

import numpy as np

_REMEDY = "fetch or make it again"


def load(path: pathlib.Path, names: list[str], keys: list[str]) -> list[np.ndarray]:
    """The arrays `names` of a .npz file; `keys` are the config keys that name them.

    Errors: ValueError, one line with file and key, for a file that is damaged, an array that is missing, and one of Python
    objects, which is never unpickled.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError(f"{path} holds one array without a name: save it with np.savez")
        with archive:
            return [_array(archive, path, name, key) for name, key in zip(names, keys)]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        if getattr(error, "errno", None):  # an error of the disk, not of the data
            raise
        raise ValueError(f"{path} is damaged or cut short ({_first_line(error)}): {_REMEDY}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read as .npz ({_first_line(error)}): {_REMEDY}") from None


def _array(archive, path: pathlib.Path, name: str, key: str) -> np.ndarray:
    if name not in archive.files:
        found = ", ".join(archive.files) or "none"
        also = ", or to '' for no labels" if key == "images.label" else ""
        raise ValueError(f"{path} has no array {name!r} but {found}: set {key}{also}")
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(
            f"{path}: {key} {name!r} is an array of Python objects, which are never unpickled: save plain numbers"
        ) from None
    if array.dtype.hasobject:
        raise ValueError(f"{path}: {key} {name!r} is an array of Python objects: save plain numbers or strings")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_latents(path: pathlib.Path, key: str, array: np.ndarray) -> np.ndarray:
    """Latents as they are, float32 [N, h, w, c]. Errors: ValueError, one line, for another type, shape, or numbers not finite."""
    if array.dtype.kind != "f" or array.ndim not in (3, 4):
        raise ValueError(
            f"{path}: {key} is {array.dtype} {array.shape}, latents are floats [N, h, w, c]: save those or set images.latents=False"
        )
    array = array if array.ndim == 4 else array[..., None]
    _require_finite(path, key, array)
    return array.astype(np.float32)


def check_pixels(path: pathlib.Path, key: str, array: np.ndarray) -> np.ndarray:
    """Pixels as they are stored, [N, H, W, C]. Errors: ValueError, one line, for another type or shape, or a bad number."""
    if not (array.dtype in (np.uint8, np.bool_) or array.dtype.kind == "f"):
        raise ValueError(f"{path}: {key} is {array.dtype}: save uint8 from 0 to 255, or floats in [0, 1] or [-1, 1]")
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: {key} has the shape {array.shape}: save images as [N, H, W, C] or [N, H, W]")
    array = array if array.ndim == 4 else array[..., None]
    if array.shape[-1] not in (1, 3, 4):
        turned = ", channels last (transpose it)" if array.shape[1] in (1, 3, 4) else ""
        remedy = "set images.latents=True if these are latents" if array.dtype.kind == "f" else "save gray, RGB or RGBA"
        raise ValueError(f"{path}: {key} has {array.shape[-1]} channels, 1, 3 or 4 are read{turned}: {remedy}")
    if array.dtype.kind == "f":
        _require_finite(path, key, array)
    return array


def _require_finite(path: pathlib.Path, key: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise ValueError(
            f"{path}: image {first} of {key} has a number that is not finite (NaN or infinite): mend it, or take it out"
        )


def scale(arrays: dict[pathlib.Path, np.ndarray], key: str) -> tuple[float, float]:
    """(a, b) of the line a · v + b that brings stored pixels into [0, 1], by the type and range of all files together.

    uint8 is divided by 255. Floats that are all 0 or more are in [0, 1], others in [-1, 1].
    Errors: ValueError, one line with the file, for mixed types and for floats out of range.
    """
    kinds = {path: array.dtype.kind for path, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        first, other = ((path, arrays[path].dtype) for path in dict(map(reversed, kinds.items())).values())
        raise ValueError(f"{key} is {first[1]} in {first[0]} and {other[1]} in {other[0]}: save all files in one type")
    kind = next(iter(kinds.values()))
    if kind == "u":
        return 1 / 255, 0.0
    if kind == "b":
        return 1.0, 0.0
    lowest, highest = min(array.min() for array in arrays.values()), max(array.max() for array in arrays.values())
    if lowest < -1 or highest > 1:
        worst = max(arrays, key=lambda path: np.abs(arrays[path]).max())
        raise ValueError(
            f"{worst}: floats of {key} reach from {lowest:.4g} to {highest:.4g}: save uint8 from 0 to 255, or floats in [0, 1] or "
            f"[-1, 1], or set images.latents=True"
        )
    return (1.0, 0.0) if lowest >= 0 else (0.5, 0.5)

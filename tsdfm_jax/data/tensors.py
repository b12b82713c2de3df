"""Published weights: the tensors of `model.safetensors`, or of the shards that an index lists, read a part at a time."""

import hashlib
import json
import pathlib

import numpy as np

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = ("config.json", "tokenizer.json", "model*.safetensors", INDEX)  # the files that a judge's numbers depend on
TYPES = ("F32", "F16", "BF16")
_CHUNK = 2**24


def read_json(path: pathlib.Path) -> dict:
    """The object in a JSON file; raises ValueError if the file is missing or holds no object."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: copy or download it")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # from decoding bytes, or from JSON
        raise ValueError(f"{path} cannot be read as JSON ({error}): download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not a JSON object: download it again")
    return value


class Tensors:
    """The tensors of one directory, read on demand.

    Attributes:
        files: the files, in the order of their names.
        path: tensor name -> the file that holds it.
        shapes: tensor name -> its shape.

    Errors: ValueError, one line, for a file that is missing, truncated or not as the index says, for a missing package
    `safetensors`, and on reading a tensor that is not float32, float16 or bfloat16.
    """

    def __init__(self, directory: pathlib.Path):
        tensors_by_file = _tensors_by_file(directory)
        self.files = sorted(directory / file for file in tensors_by_file)
        self.path, self.shapes, self._open = {}, {}, {}
        for path in self.files:
            self._open[path] = handle = _open(path)
            in_file = set(handle.keys())
            expected = in_file if tensors_by_file[path.name] is None else tensors_by_file[path.name]
            for name in sorted(expected ^ in_file):
                where = f"{path} does not hold it" if name in expected else f"it does not say that {path} holds it"
                raise ValueError(f"{directory / INDEX} and its shards differ in '{name}', {where}: download the directory again")
            for name in in_file:
                self.path[name], self.shapes[name] = path, tuple(handle.get_slice(name).get_shape())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part of a tensor, in its type in the file, and nothing else of the file."""
        part = self._open[self.path[name]].get_slice(name)
        if part.get_dtype() not in TYPES:
            raise ValueError(
                f"{self.path[name]}: '{name}' is of type {part.get_dtype()}, not of {', '.join(TYPES)}: "
                f"take weights that are not quantised"
            )
        # The library rejects slices that reach beyond the end.
        return part[tuple(slice(*span.indices(size)[:2]) for span, size in zip(index, self.shapes[name]))]

    def hash(self) -> str:
        """sha256 of the files' bytes, one file after the other, in hex."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()


def _tensors_by_file(directory):
    """File name -> the names of its tensors in the index, or None if there is no index."""
    if (directory / SINGLE).is_file() or not (directory / INDEX).is_file():
        return {SINGLE: None}
    tensors_by_file = {}
    weights = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{directory / INDEX} has no weight_map: download it again")
    for name, file in weights.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise ValueError(f"{directory / INDEX} puts '{name}' into {file!r}, which is no file name: download it again")
        tensors_by_file.setdefault(file, set()).add(name)
    return tensors_by_file


def _open(path):
    try:
        import safetensors  # only when such a file is read
    except ImportError:
        raise ValueError(f"{path} needs the package 'safetensors': pip install 'tsdfm_jax[eval]'") from None
    if not path.is_file():
        raise ValueError(f"{path} is missing: copy or download it")
    try:
        return safetensors.safe_open(path, framework="np")  # maps the file, and reads only its header
    except Exception as error:  # the library raises an exception of its own, or OSError
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} cannot be read as safetensors ({reason}): it may be truncated, download it again") from None

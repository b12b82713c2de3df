"""Images or latents with their labels: from a Python package, a folder, .npz or Parquet files, as one array.

Letters in names: N images, H and W height and width, C channels, V width of a conditioning vector.
"""

import dataclasses
import importlib.metadata
import math
import pathlib

import numpy as np

from tsdfm_jax.data import image_labels, image_pixels, image_readers
from tsdfm_jax.storage import places

SUFFIXES = (".npz", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """What to read.

    Attributes:
        package: a key of image_readers.PACKAGES, read where `files` is empty.
        files: a folder of pictures, or globs of .npz or of .parquet files, comma-separated.
        field: array of .npz, or column of Parquet, with the images.
        label: array or column with the labels; "" reads none, of a folder neither.
        size: height and width in pixels to crop and resize to; 0 takes the images as they are, and they must be equal squares.
        latents: whether .npz arrays are latents, taken as they are.
        limit: images read at most, drawn by the seed; 0 reads all.
        holdout: share of the images that is held out, between 0 and 1.
        images_per_shard: images in a file of the store.
        seed: decides which images are held out, and which are read under a limit.
        patch: must divide height and width; 0 where patches are cut of something else.
    """

    package: str = "sklearn"
    files: str = ""
    field: str = "image"
    label: str = "label"
    size: int = 0
    latents: bool = False
    limit: int = 0
    holdout: float = 0.165
    images_per_shard: int = 4096
    seed: int = 0
    patch: int = 0

    def __post_init__(self):
        for key, least in {"size": 0, "limit": 0, "images_per_shard": 1, "patch": 0}.items():
            if getattr(self, key) < least:
                raise ValueError(f"images.{key}={getattr(self, key)} must be at least {least}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"images.holdout={self.holdout} leaves a split empty: choose it between 0 and 1")
        if self.latents and self.size:
            raise ValueError(f"images.size={self.size} cannot resize latents: set images.size=0, or images.latents=False")
        if self.latents and not self.files:
            raise ValueError("images.latents=True reads latents from .npz files: name them in images.files")
        if self.patch and self.size % self.patch:
            require_patches((self.size, self.size), self.patch, "images.size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images, in the order in which they were read.

    Attributes:
        x_NHWC: float32, pixels in [-1, 1], or latents as they are.
        y: int32 [N], classes; or float32 [N, V], conditioning vectors; or None.
        names: the names of the classes, () without classes.
    """

    x_NHWC: np.ndarray
    y: np.ndarray | None
    names: tuple[str, ...]


def check(cfg: ImagesConfig) -> None:
    """Raise ValueError or FileNotFoundError, one line, for missing packages and for files that are not there or unreadable.

    Opens no file: what is in them `read` checks.
    """
    found = files(cfg)
    if not cfg.files:
        version(cfg.package)
    elif found[0].suffix == ".parquet":
        image_readers.parquet(str(found[0]))
    if cfg.size or (found and found[0].suffix != ".npz"):
        image_pixels.pillow(f"images.size={cfg.size}" if cfg.size else str(found[0]))


def files(cfg: ImagesConfig) -> list[pathlib.Path]:
    """Every file that is read, in order; [] for a package. Errors as in `check`."""
    if not cfg.files:
        if cfg.package not in image_readers.PACKAGES:
            raise ValueError(
                f"images.package {cfg.package!r} is not one of {', '.join(image_readers.PACKAGES)}: take one, or give images.files"
            )
        return []
    if folder := _folder(cfg):
        found = list(image_readers.pictures(folder))
        for file in found:
            places.require_readable(file, "images.files")
        return found
    return _globbed(cfg)


def _folder(cfg: ImagesConfig) -> pathlib.Path | None:
    """The folder of pictures that `files` names; None where it names files."""
    folders = [path for pattern in places.split(cfg.files) if (path := places.expanded(pattern)).is_dir()]
    if not folders:
        return None
    if len(folders) > 1 or len(places.split(cfg.files)) > 1:
        raise ValueError(f"images.files {cfg.files!r} names a folder and more: give one folder, or .npz or .parquet files")
    if cfg.latents:
        raise ValueError(f"images.latents=True reads .npz files, and images.files names the folder {folders[0]}: set it to False")
    return folders[0]


def _globbed(cfg: ImagesConfig) -> list[pathlib.Path]:
    names: set[str] = set()
    for pattern in places.split(cfg.files):
        matches = [match for match in places.matches(pattern) if not pathlib.Path(match).is_dir()]
        if not matches:
            raise FileNotFoundError(f"no file matches {pattern!r}: check --config.images.files (quote the glob)")
        for match in matches:
            places.require_readable(match, "images.files")
        names.update(matches)
    found = [pathlib.Path(name) for name in places.once(names)]
    suffixes = SUFFIXES[:1] if cfg.latents else SUFFIXES
    for file in found:
        if file.suffix not in suffixes:
            raise ValueError(
                f"images.files: {file} has an unknown suffix: {' or '.join(suffixes)} is read, or a folder with one folder of "
                f"pictures for each class"
            )
        if file.suffix != found[0].suffix:
            raise ValueError(f"images.files names {found[0]} and {file}: give files of one kind")
    return found


def version(package: str) -> str:
    """The version of the installed package. Errors: ValueError if it has no images, FileNotFoundError if it is missing."""
    if package not in image_readers.PACKAGES:
        raise ValueError(f"images.package {package!r} is not one of {', '.join(image_readers.PACKAGES)}")
    try:
        return importlib.metadata.version(image_readers.PACKAGES[package])
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"images.package {package!r} is not installed: pip install -e '.[demo]', or give --config.images.files"
        ) from None


def find(cfg: ImagesConfig) -> image_readers.Source:
    """The images to be read, under the limit, with their labels. Errors: those of `check`, and of what is not as it should be."""
    check(cfg)
    source = _source(cfg)
    if 0 < cfg.limit < source.count:
        return source.only(np.sort(np.random.default_rng(cfg.seed).permutation(source.count)[: cfg.limit]))
    return source


def read(cfg: ImagesConfig, source: image_readers.Source | None = None, progress=lambda done: None) -> Images:
    """Read all images of `source`, by default `find(cfg)`; `progress` receives the number of images read so far.

    Errors: ValueError, one line with the file, for what is damaged, of another size, out of range or without a label.
    """
    source = source or find(cfg)
    y, names = image_labels.read(source.labels, source.name)
    images = []
    for number in range(source.count):
        values = source.load(number) if cfg.latents else image_pixels.plain(source.load(number))
        images.append(image_pixels.square(values, cfg.size, source.name(number)) if cfg.size else values)
        progress(len(images))
    x_NHWC = _stacked(images, source.name, mixed=not cfg.latents)
    require_patches(x_NHWC.shape[1:3], cfg.patch, "images.size")
    return Images(x_NHWC=x_NHWC if cfg.latents else x_NHWC * 2 - 1, y=y, names=names)


def _source(cfg: ImagesConfig) -> image_readers.Source:
    if not cfg.files:
        return image_readers.of_package(cfg.package)
    if folder := _folder(cfg):
        return image_readers.of_folder(folder, bool(cfg.label))
    found = _globbed(cfg)
    if found[0].suffix == ".parquet":
        return image_readers.of_parquet(found, cfg.field, cfg.label)
    return image_readers.of_npz(found, cfg.field, cfg.label, cfg.latents)


def _stacked(images: list[np.ndarray], name, mixed: bool) -> np.ndarray:
    """The images as one array; with `mixed`, gray ones become RGB where another is."""
    height, width = images[0].shape[:2]
    for number, values in enumerate(images):
        if values.shape[:2] != (height, width):
            raise ValueError(
                f"{name(number)} has {values.shape[0]} × {values.shape[1]} pixels and {name(0)} has {height} × {width}: set "
                f"images.size, and all are cropped and resized to it"
            )
    if height != width:
        raise ValueError(f"{name(0)} has {height} × {width} pixels, which is no square: set images.size, and it is cropped")
    channels = max(values.shape[-1] for values in images)
    x_NHWC = np.empty((len(images), height, width, channels), np.float32)
    for number, values in enumerate(images):
        if values.shape[-1] != channels and not (mixed and values.shape[-1] == 1):
            raise ValueError(f"{name(number)} has {values.shape[-1]} channels, and another has {channels}: give all the same")
        x_NHWC[number] = values
    return x_NHWC


def require_patches(shape: tuple[int, ...], patch: int, key: str) -> None:
    """Raise ValueError, one line, unless patches of `patch` divide height and width, the first two of `shape`; 0 is any."""
    height, width = shape[:2]
    if patch and (height % patch or width % patch):
        side = math.gcd(height, width)
        fits = ", ".join(str(n) for n in range(1, side + 1) if side % n == 0)
        raise ValueError(f"images.patch={patch} does not divide {height} × {width}: take one of {fits}, or another {key}")

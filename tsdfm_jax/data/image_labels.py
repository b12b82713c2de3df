"""Labels of images: classes with names, or vectors of conditioning."""

import numpy as np

_KEY = "images.label"


def read(labels, name) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Raw labels of N images as (y, names of the classes): int32 [N], or float32 [N, V] and no names, or (None, ()).

    `labels` is a list of whole numbers or names, an array of them, an array [N, V], or None. Classes are numbered in the order of
    their values, names by the alphabet. `name(number)` names an image in errors.
    Errors: ValueError, one line, for labels that are missing, below 0, no whole numbers, or not finite.
    """
    if labels is None:
        return None, ()
    missing = [i for i, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(f"{name(missing[0])} has no label: give it one, or set {_KEY}='' for no labels")
    try:
        array = np.asarray(labels)
    except ValueError:
        raise ValueError(f"{name(0)}: {_KEY} has vectors of different lengths: give every image one of the same length") from None
    if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind in "iub":
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] and array.dtype.kind in "iubf":
        return _vectors(array, name), ()
    if array.ndim != 1 or array.dtype.kind not in "iubUS":
        raise ValueError(
            f"{name(0)}: {_KEY} is {array.dtype} {array.shape[1:]}: give whole numbers or names [N], or vectors [N, V], or set "
            f"{_KEY}=''"
        )
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "iu" and (array < 0).any():
        bad = int(np.flatnonzero(array < 0)[0])
        raise ValueError(f"{name(bad)} has the label {array[bad]}, which often means none: give it a class, or set {_KEY}=''")
    values, y_N = np.unique(array.astype(np.int64) if array.dtype.kind in "iub" else array, return_inverse=True)
    return y_N.astype(np.int32), tuple(str(value) for value in values)


def _vectors(array: np.ndarray, name) -> np.ndarray:
    vectors = array.astype(np.float32)
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"{name(bad)}: its vector in {_KEY} has a number that is not finite: mend it, or take it out")
    return vectors


def split(y, count: int, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the training and of the held-out images, each in a seeded random order.

    With classes, `y` int [N], each class gives its share of `holdout`, up to one image more or less, and at least one image of each
    stays in training. Without, `y` is None or vectors. The same on every machine.
    Errors: ValueError where one of the two would be empty.
    """
    rng = np.random.default_rng(seed)
    by_class = y is not None and np.ndim(y) == 1
    groups = [np.flatnonzero(y == label) for label in np.unique(y)] if by_class else [np.arange(count)]
    train, heldout = [], []
    for group, out in zip(groups, _shares(rng, np.array([len(group) for group in groups]), holdout)):
        order = rng.permutation(group)
        heldout.append(order[:out])
        train.append(order[out:])
    train_M, heldout_M = np.concatenate(train), np.concatenate(heldout)
    if not len(heldout_M) or not len(train_M):
        what = f"{count} images" + (f" of {len(groups)} classes" if by_class else "")
        raise ValueError(f"images.holdout={holdout} leaves none of {what} held out: raise it, or give more images")
    return rng.permutation(train_M), rng.permutation(heldout_M)


def _shares(rng: np.random.Generator, counts_K: np.ndarray, holdout: float) -> np.ndarray:
    """How many images each class gives: `holdout` of all together, by largest remainders; equal ones are drawn."""
    exact_K = holdout * counts_K
    shares_K = np.floor(exact_K).astype(int)
    order = np.lexsort((rng.random(len(counts_K)), shares_K - exact_K))
    shares_K[order[: round(holdout * counts_K.sum()) - shares_K.sum()]] += 1
    return np.minimum(shares_K, counts_K - 1)

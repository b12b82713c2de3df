"""What is asked of a model of images: numbers, labels, endings and images, checked and as arrays. Time 0 = data, 1 = noise.

Every error is a ValueError of one line with the argument's name and a remedy. Letters: N images, V width of a vector.
"""

import math
import operator

import numpy as np

from tsdfm_jax.normalizing import sampling
from tsdfm_jax.ntm import chain

LARGEST = 2**31 - 1
MOST = 2**16  # images of one request, and steps
DENOISE = ("none", "score", "learned")
EULER_STEPS = 50  # of flow matching, where nothing else is asked for
SLACK = 8.0  # standard deviations of noise that an image may lie beyond [-1, 1]


def whole(name, value, least, most=LARGEST):
    """A whole number from `least` to `most`, of Python or numpy, as an int."""
    try:
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        raise ValueError(f"{name} {value!r} must be a whole number, at least {least} and at most {most:,}")
    return found


def real(name, value):
    """A finite number that is not below 0, as a float."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < 1e6:
        raise ValueError(f"{name} {value!r} must be a number, at least 0 and below 1,000,000")
    return found


def steps(parts, value):
    """T: one of those that the model was trained with, by default the most; flow matching takes any."""
    trained_with = parts.config.ntm.steps
    if value is None:
        return max(trained_with, default=EULER_STEPS)
    found = whole("steps", value, 1, MOST)
    if trained_with and found not in trained_with:
        raise ValueError(f"steps {found} is not one that {parts.title} is trained with: take {_or(trained_with)}")
    return found


def request(parts, *, steps_asked, guidance, denoise, noise_free):
    """The sampling.Request of a model."""
    weight, c = real("guidance", guidance), parts.config
    if weight and not (parts.shape.classes or parts.shape.vector):
        raise ValueError(f"guidance {weight:g} needs labels, and {parts.title} has none: take guidance 0")
    if weight and not parts.told["drop"]:
        raise ValueError(
            f"guidance {weight:g} needs a model that was trained with hidden labels, unlike {parts.title}: take guidance 0"
        )
    levels = dict(level=c.ntm.t_sample, shift=c.ntm.shift, clip=c.denoiser.clip)
    ending = _ending(parts, denoise, bool(noise_free))
    return sampling.Request(model=parts.model, steps=steps(parts, steps_asked), guidance=weight, ending=ending, **levels)


def _ending(parts, denoise, noise_free):
    if not isinstance(denoise, str) or denoise not in DENOISE:
        raise ValueError(f"denoise {denoise!r} is not one of {', '.join(DENOISE)}")
    if denoise == "none" and not noise_free:
        return "noisy"
    what = "noise_free True" if noise_free else f"denoise {denoise!r}"
    require_likelihood(parts, what)
    if noise_free and denoise != "none":
        raise ValueError(
            f"denoise {denoise!r} is of images whose last step adds noise, and noise_free is True: take one of the two"
        )
    if denoise == "learned" and parts.denoiser is None:
        raise ValueError(f"denoise 'learned' needs the denoiser, and there is none: {parts.no_denoiser}")
    return "noise_free" if noise_free else denoise


def require_likelihood(parts, what):
    """Refuse what only models with a likelihood can do."""
    if parts.model == "flow_matching":
        raise ValueError(f"{what} is of models with a likelihood, and {parts.title} has none: take the model ntm or ntm_identity")


def count(parts, label, number, default=16):
    """How many images: `number`, else as many as labels are listed, else the default."""
    if number is not None:
        return whole("number", number, 1, MOST)
    listed = np.ndim(label) == 2 if parts.shape.vector else isinstance(label, (list, tuple)) or np.ndim(label) > 0
    if not listed:
        return default
    if not 1 <= len(label) <= MOST:
        raise ValueError(f"label names {len(label)} images: give at least 1 and at most {MOST:,}")
    return len(label)


def labels(parts, label, number):
    """What `number` images are asked for as: int32 [N], float32 [N, V], or None where there is nothing to say."""
    if label is None:
        return None
    if hasattr(label, "__array__"):
        label = np.asarray(label)
    if parts.shape.vector:
        return _vectors(parts, label, number)
    if not parts.shape.classes:
        raise ValueError(f"label {_short(label)} has no meaning to {parts.title}, which knows no labels: leave it out")
    if isinstance(label, str) or np.ndim(label) == 0:
        return np.full(number, _class(parts, label), np.int32)
    found = np.asarray([_class(parts, one) for one in label], np.int32)
    if len(found) != number:
        raise ValueError(f"label names {len(found)} classes for {number} images: give one for each, or a single one")
    return found


def round_the_classes(parts, number):
    """Labels of images where none are given: image i is of class i modulo their number."""
    if parts.shape.vector:
        raise ValueError(f"label None does not say what to draw: give {parts.title} vectors of {parts.shape.vector} numbers")
    return np.arange(number, dtype=np.int32) % parts.shape.classes if parts.shape.classes else None


def _class(parts, label):
    if isinstance(label, str):
        if label in parts.names:
            return parts.names.index(label)
    elif not isinstance(label, (bool, np.bool_)):
        try:
            if 0 <= (found := operator.index(label)) < parts.shape.classes:
                return found
        except TypeError:
            pass
    names = f", or a name of {parts.names[0]!r} to {parts.names[-1]!r}" if parts.names else ""
    raise ValueError(f"label {_short(label)} is no class: take a number from 0 to {parts.shape.classes - 1}{names}")


def _vectors(parts, label, number):
    width = parts.shape.vector
    try:
        y = np.asarray(label, np.float32)
    except (TypeError, ValueError):
        y = np.zeros(0)
    if y.shape == (width,):
        y = np.broadcast_to(y, (number, width))
    if y.shape != (number, width) or not np.isfinite(y).all():
        raise ValueError(f"label {_short(label)} must be finite vectors of {width} numbers, one or {number} of them")
    return np.ascontiguousarray(y)


def images(x, shape, most, what="x"):
    """Images as float32 [N, H, W, C]; their numbers may be as large as `most`, 0 for any."""
    try:
        found = np.asarray(x)
    except ValueError:
        found = np.zeros(0)
    wanted = f"[N, {', '.join(map(str, shape))}]"
    if found.ndim != 4 or found.shape[1:] != tuple(shape) or not len(found) or found.dtype.kind not in "iuf":
        raise ValueError(f"{what} of shape {list(found.shape)} and type {found.dtype} must be numbers {wanted}")
    found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{what} has a number that is not finite, in image {int(np.argwhere(~np.isfinite(found))[0, 0])}: mend it")
    if most and (largest := float(np.abs(found).max())) > most:
        raise ValueError(f"{what} has a number of size {largest:g}, and images are in [-1, 1]: scale pixels by x / 127.5 - 1")
    return found


def level(parts, value, number_of_steps):
    """The level of noisy images, by default the one that the model's trajectories end at."""
    first = float(chain.levels(number_of_steps, parts.config.ntm.shift)[0])
    found = parts.config.ntm.t_sample if value is None else real("level", value)
    if not 0 < found < first:
        raise ValueError(f"level {found:g} must be above 0 and below {first:.4g}, the first level of {number_of_steps} steps")
    return found


def _or(values):
    values = list(map(str, values))
    return " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)


def _short(value):
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"

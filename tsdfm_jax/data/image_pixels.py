"""Pixels: from an encoded picture to an array, transparent over white, gray or RGB, cropped and resized.

Letters in names: N images, H and W height and width in pixels, C channels. Values of pixels lie in [0, 1] here.
"""

import io
import warnings

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
LARGEST = 1 << 26  # pixels of a picture; one that claims more is refused before it is unpacked
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's names of a gray picture with 16 bits a pixel
_REMEDY = "mend it, or take it out"


def pillow(needed_by: str):
    """The package PIL, imported late; ValueError, one line with the command that installs it, where it is missing."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ValueError(f"{needed_by} needs the package pillow: pip install -e '.[images]'") from None
    return PIL


def decode(data: bytes, name: str) -> np.ndarray:
    """The first frame of an encoded picture, turned as its EXIF says: float32 [H, W, C] in [0, 1] with 1, 3 or 4 channels.

    `name` stands in errors: ValueError, one line, for data that is no picture, is damaged or cut short, or is too large.
    """
    pil = pillow(name)
    if not data:
        raise ValueError(f"{name} is empty: {_REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warning of many pixels; ours is an error
            with pil.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > LARGEST:
                    raise pil.Image.DecompressionBombError(f"{width} × {height} pixels")
                return _values(pil.ImageOps.exif_transpose(picture))
    except pil.Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels ({error}), {LARGEST:,} at most are read: scale it down first") from None
    except pil.UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that is read (PNG, JPEG, WebP, BMP, GIF): convert it, or take it out") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and others for damaged data
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} is damaged or cut short ({reason}): {_REMEDY}") from None


def _values(picture) -> np.ndarray:
    if picture.mode in _DEEP:
        return (np.asarray(picture, np.float32) / 65535)[..., None].clip(0, 1)
    if picture.mode in ("1", "L"):
        mode = "L"
    elif "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        mode = "RGBA"
    else:
        mode = "RGB"
    values = np.asarray(picture.convert(mode), np.float32) / 255
    return values if values.ndim == 3 else values[..., None]


def plain(values: np.ndarray) -> np.ndarray:
    """Pixels of 1, 3 or 4 channels, the fourth of which is opacity, over white, as 1 channel where all is gray, else 3."""
    if values.shape[-1] == 4:
        opacity = values[..., 3:]
        values = values[..., :3] * opacity + (1 - opacity)
    if values.shape[-1] == 3 and (values == values[..., :1]).all():
        return values[..., :1]
    return values


def square(values_HWC: np.ndarray, size: int, name: str) -> np.ndarray:
    """The middle square of an image, resized to `size` by Lanczos's filter, which averages where it shrinks; cut to [0, 1]."""
    height, width = values_HWC.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = np.ascontiguousarray(values_HWC[top : top + side, left : left + side], np.float32)
    if side == size:
        return middle
    pil = pillow(name)
    resize = lambda channel: pil.Image.fromarray(channel).resize((size, size), pil.Image.Resampling.LANCZOS)
    channels = [np.asarray(resize(np.ascontiguousarray(middle[..., i])), np.float32) for i in range(middle.shape[-1])]
    return np.stack(channels, axis=-1).clip(0, 1)

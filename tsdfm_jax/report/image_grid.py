"""Images as PNG bytes, alone or in a grid, without an imaging library."""

import base64
import math
import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels (grey, grey and alpha, RGB, RGBA) → PNG's colour type


def pixels(x_BHWC, low=-1.0, high=1.0):
    """Floats as uint8, `low` as 0 and `high` as 255; what lies outside is cut. Latents need a wider range, such as -3 to 3."""
    share = (np.asarray(x_BHWC, np.float64) - low) / (high - low)
    return np.round(255 * np.clip(np.nan_to_num(share), 0, 1)).astype(np.uint8)


def visible(images_NHWC):
    """Images with 1 or 3 channels as they are; of others (latents), the channels side by side in a near-square, in grey."""
    n, h, w, c = images_NHWC.shape
    if c in (1, 3):
        return images_NHWC
    columns = math.ceil(math.sqrt(c))
    rows = -(-c // columns)
    padded = np.concatenate([images_NHWC, np.zeros((n, h, w, rows * columns - c), images_NHWC.dtype)], axis=-1)
    tiles = padded.reshape(n, h, w, rows, columns).transpose(0, 3, 1, 4, 2)
    return tiles.reshape(n, rows * h, columns * w, 1)


def png(images_NHWC, columns=None, scale=1, gap=1):
    """PNG bytes of N images in rows of `columns` (default: near-square), each pixel as `scale` × `scale`.

    `gap` pixels (before scaling) between images and the places after the last one are transparent, so that the grid looks right
    on light and on dark. Images are uint8 with 1 or 3 channels; others are laid out by `visible`. Raises ValueError for other
    types and shapes.
    """
    images_NHWC = np.asarray(images_NHWC)
    if images_NHWC.ndim != 4 or images_NHWC.dtype != np.uint8 or not images_NHWC.size:
        raise ValueError(
            f"images of shape {images_NHWC.shape} and type {images_NHWC.dtype} are not uint8 [N, H, W, C]: use pixels(x)"
        )
    images_NHWC = visible(images_NHWC)
    n, h, w, c = images_NHWC.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = -(-n // columns)
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, c + 1), np.uint8)
    for i, image in enumerate(images_NHWC):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w, :c] = image
        canvas[top : top + h, left : left + w, c] = 255
    if canvas[..., c].all():
        canvas = canvas[..., :c]
    return encode(canvas.repeat(scale, axis=0).repeat(scale, axis=1))


def encode(image_HWC):
    """PNG bytes of one uint8 image with 1 to 4 channels."""
    h, w, c = image_HWC.shape
    header = struct.pack(">IIBBBBB", w, h, 8, COLOUR_TYPES[c], 0, 0, 0)
    above, left = np.zeros_like(image_HWC), np.zeros_like(image_HWC)
    above[1:], left[:, 1:] = image_HWC[:-1], image_HWC[:, :-1]
    filtered = ((0, image_HWC), (1, image_HWC - left), (2, image_HWC - above))  # PNG's filters None, Sub and Up; bytes wrap
    packed = [zlib.compress(np.insert(f.reshape(h, w * c), 0, number, axis=1).tobytes(), 9) for number, f in filtered]
    chunks = ((b"IHDR", header), (b"IDAT", min(packed, key=len)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, *zip(*chunks)))


def chunk(name, data):
    """A PNG chunk: length, name, data, checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def uri(data):
    """PNG bytes as a data URI, which a page shows without a network."""
    return "data:image/png;base64," + base64.b64encode(data).decode()

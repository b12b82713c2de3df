"""Images as PNG: what a reader of PNGs finds is what was put in."""

import io

import numpy as np
import pytest
from PIL import Image

from tsdfm_jax.report import image_grid


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_one_image_is_itself(channels, mode):
    """One image keeps its pixels, in grey or in colour; the bytes are the same twice."""
    image = np.random.default_rng(0).integers(0, 256, (1, 7, 5, channels), dtype=np.uint8)
    data = image_grid.png(image)
    assert data == image_grid.png(image) and opened(data).mode == mode
    np.testing.assert_array_equal(np.asarray(opened(data)).reshape(image[0].shape), image[0])


@pytest.mark.parametrize("channels, mode", [(1, "LA"), (3, "RGBA")])
def test_a_grid_has_its_images_in_order(channels, mode):
    """Images stand row by row, enlarged pixel by pixel; gaps and free places are transparent."""
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    found = opened(image_grid.png(images, columns=3, scale=2, gap=1))
    assert found.mode == mode and found.size == (2 * (3 * 7 - 1), 2 * (2 * 5 - 1))
    shown = np.asarray(found)[::2, ::2]
    np.testing.assert_array_equal(np.asarray(found), shown.repeat(2, 0).repeat(2, 1))
    for i, image in enumerate(images):
        top, left = 5 * (i // 3), 7 * (i % 3)
        np.testing.assert_array_equal(shown[top : top + 4, left : left + 6, :channels], image)
    assert (shown[..., -1] == 255).sum() == 5 * 4 * 6
    assert (shown[:, 6, -1] == 0).all() and (shown[5:, 14:, -1] == 0).all()


def test_smooth_images_are_small():
    """A ramp is written with the filter that makes it small."""
    ramp = np.arange(256, dtype=np.uint8)[None, None, :, None].repeat(64, 1)
    assert len(image_grid.png(ramp)) < 250
    assert len(image_grid.png(ramp.transpose(0, 2, 1, 3))) < 500


def test_latents_show_their_channels():
    """Images of other than 1 or 3 channels are shown channel by channel, in grey."""
    latents = np.random.default_rng(2).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    shown = image_grid.visible(latents)
    assert shown.shape == (2, 2 * 3, 3 * 4, 1)
    for c in range(5):
        top, left = 3 * (c // 3), 4 * (c % 3)
        np.testing.assert_array_equal(shown[:, top : top + 3, left : left + 4, 0], latents[..., c])
    assert (shown[:, 3:, 8:] == 0).all()


def test_floats_become_pixels():
    """-1 is black and 1 is white, what lies outside is cut, and the range can be another."""
    assert image_grid.pixels(np.array([-2, -1, 0, 1, 3, np.nan])).tolist() == [0, 0, 128, 255, 255, 0]
    assert image_grid.pixels(np.array([-3.0, 0, 3]), -3, 3).tolist() == [0, 128, 255]


@pytest.mark.parametrize("images", [np.zeros((2, 3, 3, 1)), np.zeros((3, 3, 1), np.uint8), np.zeros((0, 3, 3, 1), np.uint8)])
def test_what_is_no_image_is_one_line(images):
    """Floats, a missing axis and no image at all are refused with the shape, the type and a remedy."""
    with pytest.raises(ValueError, match="pixels") as caught:
        image_grid.png(images)
    assert str(images.shape) in str(caught.value) and "\n" not in str(caught.value)

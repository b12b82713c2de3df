"""Images as rows of patches."""

import numpy as np
import pytest

from tsdfm_jax.ntm import patches


@pytest.mark.parametrize("shape, size", [((4, 6, 3), 2), ((6, 3, 1), 3), ((5, 7, 2), 1), ((4, 4, 1), 4)])
def test_join_undoes_cut(shape, size):
    """join(cut(x)) = x, and the patches are in row-major order, within a patch too, channels last."""
    x_BHWC = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    x_BNd = patches.cut(x_BHWC, size)
    height, width, channels = shape
    assert x_BNd.shape == (2, height // size * (width // size), size * size * channels)
    np.testing.assert_array_equal(patches.join(x_BNd, shape, size), x_BHWC)
    for n in range(x_BNd.shape[1]):
        top, left = size * (n // (width // size)), size * (n % (width // size))
        np.testing.assert_array_equal(x_BNd[:, n], x_BHWC[:, top : top + size, left : left + size].reshape(2, -1))

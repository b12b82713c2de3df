"""Images as rows of patches, and back."""


def cut(x_BHWC, size):
    """[B, H, W, C] -> [B, N, d], patches of size × size in row-major order; d = size² C."""
    b, height, width, channels = x_BHWC.shape
    rows, columns = height // size, width // size
    x = x_BHWC.reshape(b, rows, size, columns, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, size * size * channels)


def join(x_BNd, shape, size):
    """The images of `cut`; `shape` is (H, W, C)."""
    height, width, channels = shape
    x = x_BNd.reshape(-1, height // size, width // size, size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)

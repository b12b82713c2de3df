"""What a model of images gives: images with their labels, as arrays, PNG and files; and likelihoods."""

import dataclasses

import numpy as np

from tsdfm_jax.report import image_grid
from tsdfm_jax.storage import atomic, places

LATENT_RANGE = (-3.0, 3.0)  # from black to white, of latents that nothing decodes
SIDE = 56  # pixels that small images are enlarged to, about


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """Images and what they were asked for as; in a notebook it shows itself.

    Attributes:
      images: float32 [N, H, W, C], in [-1, 1]; latents as they are where nothing decodes them.
      labels: int32 [N], classes; float32 [N, V], vectors; or None.
      classes: the names of the classes.
      latents: whether they are latents.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    latents: bool = False

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        n, height, width, channels = self.images.shape
        return f"Images({n} of {height} × {width} × {channels})"

    def picture(self, columns=None, scale=None):
        """PNG bytes of all of them, in rows of `columns`, each pixel as `scale` × `scale`; by default small ones are enlarged.

        Raises ValueError for numbers below 1.
        """
        for name, value in {"columns": columns, "scale": scale}.items():
            if value is not None and not (isinstance(value, (int, np.integer)) and value >= 1):
                raise ValueError(f"{name} {value!r} must be a whole number, at least 1")
        pixels = image_grid.pixels(self.images, *(LATENT_RANGE if self.latents else (-1.0, 1.0)))
        return image_grid.png(pixels, columns=columns, scale=scale or max(1, round(SIDE / pixels.shape[1])))

    def _repr_png_(self):
        return self.picture()

    def arrays(self):
        """What a file of them has: `images` and, if there are labels, `labels`."""
        return {"images": self.images} | ({} if self.labels is None else {"labels": self.labels})

    def save(self, path):
        """Write a .png with all of them, or a .npz with the arrays `images` and `labels`; returns the path.

        Raises ValueError, one line, for another suffix; OSError from the disk.
        """
        file = places.expanded(path)
        if file.suffix not in (".png", ".npz"):
            raise ValueError(f"{file} has neither suffix that images are saved as: give a path that ends in .png or .npz")
        with atomic.replacing(file) as partial, open(partial, "wb") as out:
            if file.suffix == ".png":
                out.write(self.picture())
            else:
                np.savez(out, **self.arrays())
        return file


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Likelihoods:
    """Likelihoods of images in bits; lower is likelier. Time runs from 0 = data to 1 = noise.

    A model has a density of trajectories, x at t_0 < … < t_T = 1, and none of clean images. For each image noise is drawn, and with
    it a trajectory that ends at `level`.

    Attributes:
      trajectory_bits: [N], **exact**: of the drawn trajectory's T noisy levels below x_T, given x_T, by the change of variables; a
        mean over T, draws and numbers.
      bound_bits: [N], **a bound**: of -log p(x at t_0), the image with noise t_0, in bits a number. Its expectation over the
        trajectories is at least that; a mean of few draws may lie below.
      by_step: [N, T], exact, the parts of trajectory_bits; step 1 ends at level 0.
      steps: T.
      level: t_0.
      numbers: the numbers of an image that bits are counted by: those of its latent where the model has an autoencoder. Bits of
        latents cannot be compared to bits of pixels.
      draws: trajectories drawn of each image.
    """

    trajectory_bits: np.ndarray
    bound_bits: np.ndarray
    by_step: np.ndarray
    steps: int
    level: float
    numbers: int
    draws: int

    def __repr__(self):
        means = f"{self.trajectory_bits.mean():.3f} bits of trajectories, bound {self.bound_bits.mean():.3f}"
        return f"Likelihoods({len(self.bound_bits)} images, {self.steps} steps: {means})"

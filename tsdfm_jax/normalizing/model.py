"""A trained model of images as an object: it draws, measures likelihoods, and denoises. Time runs from 0 = data to 1 = noise."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np

from tsdfm_jax.models import autoencoder, transformer
from tsdfm_jax.normalizing import asking, drawing, heldout, networks, results, sampling
from tsdfm_jax.ntm import chain, patches as cutting
from tsdfm_jax.runtime import mesh as meshes, pipeline


class Model:
    """A trained model of images; `load` makes it.

    Attributes:
      name: the model's name, and the run or directory that it comes from.
      shape: (H, W, C) of its images.
      classes: the names of its classes; a class's number is its place here.
      steps: the numbers of steps that it was trained with; () for flow matching, which takes any.
      level: the time that its trajectories end at, t_0.
      parameters: how many weights its network has; autoencoder and denoiser not counted.
      hash: content hash of these weights.
      params: these weights, sharded over the mesh.
      parts: all that it was opened from, an opening.Parts.
    """

    def __init__(self, parts, mesh):
        self.parts, self._mesh, self._programs = parts, mesh, {}
        self.name, self.shape, self.classes = parts.title, tuple(parts.image), parts.names
        self.steps, self.level = tuple(parts.config.ntm.steps), parts.config.ntm.t_sample
        self.params, self.hash = parts.network.params, parts.network.hash
        self.parameters = transformer.parameters(self.params)
        self._denoiser = functools.cache(parts.denoiser) if parts.denoiser else None

    def __repr__(self):
        return f"Model({self.name}: images of {' × '.join(map(str, self.shape))})"

    def sample(self, label=None, *, steps=None, number=None, guidance=0.0, denoise="none", noise_free=False, seed=0, batch=64):
        """Draw images. Image i is a function of the seed and i (to rounding), not of `number` or `batch`.

        A call compiles a program for a new number of steps, guidance, ending or batch.

        Args:
          label (int | str | list | array | None): what to draw: a class's number or name for all images, a list of one for each,
            conditioning vectors [V] or [N, V], or None, which goes round the classes.
          steps (int | None): T; of ntm and ntm_identity one of `self.steps`, None is the most of them; of flow matching any, None
            is 50.
          number (int | None): images; None is one for each label of a list, or 16.
          guidance (float): weight of guidance, 0 for none.
          denoise (str): what follows the last step: "none", "score" (score denoising) or "learned" (the learned denoiser in place
            of the transporter's inversion). Images after it are no longer draws from the model's law.
          noise_free (bool): whether the last step takes its mean, without noise; likewise.
          seed (int): from 0 to 2^31 - 1.
          batch (int): images computed at once at most, rounded up to a multiple of the devices along the batch.

        Returns:
          images (normalizing.results.Images): with `.images`, `.labels`, `.picture()` and `.save(path)`.

        Raises:
          ValueError: for a value out of range, an unknown class, or what this model cannot do.
        """
        parts = self.parts
        count = asking.count(parts, label, number)
        request = asking.request(parts, steps_asked=steps, guidance=guidance, denoise=denoise, noise_free=noise_free)
        y = asking.labels(parts, label, count)
        y = asking.round_the_classes(parts, count) if y is None else y
        seed, batch = asking.whole("seed", seed, 0), asking.whole("batch", batch, 1, asking.MOST)
        draw = drawing.of_rows(parts.config, parts.shape, self._mesh, request)
        made = lambda *given: draw(*given).x_BHWC
        weights = {"model": self.params, "denoiser": self._denoiser()} if request.ending == "learned" else self.params
        x_NHWC = self._over_rows(request, made, seed, weights, self._rows(count, y=y), batch)
        return results.Images(
            images=self.decode(x_NHWC, batch=batch), labels=y, classes=self.classes, latents=self.parts.told["latents"]
        )

    def log_likelihood(self, x, label=None, *, steps=None, seed=0, draws=1, batch=64):
        """Likelihoods of images, each by trajectories that are drawn from it; see normalizing.results.Likelihoods.

        Exact is the density of a drawn trajectory; of the image with noise t_0 alone it gives a bound. With an autoencoder images
        are encoded first, and the figures are of their latents.

        Args:
          x (array): clean images [N, H, W, C] in [-1, 1].
          label: as in `sample`, one for all or one for each image; None hides it from the model.
          steps (int | None): T, as in `sample`.
          seed (int): image i's noise is a function of the seed and i.
          draws (int): trajectories of each image, whose mean is given.
          batch (int): images computed at once at most.

        Returns:
          likelihoods (normalizing.results.Likelihoods): bits of each image.

        Raises:
          ValueError: for flow matching, which has no likelihood, a wrong shape, a number that is not finite, or out of range.
        """
        parts = self.parts
        asking.require_likelihood(parts, "log_likelihood")
        steps, rows, batch = self._told(x, self.shape, 1.0 + 1e-4, label, steps, batch)
        rows["x"] = self.encode(rows["x"], batch=batch)
        seed, draws = asking.whole("seed", seed, 0), asking.whole("draws", draws, 1, asking.MOST)

        def measure(seed, params, rows):
            key_B = sampling.keys(seed, rows["index"])
            return heldout.drawn_nll(parts.config, parts.shape, params, key_B, rows["x"], _condition(rows), steps)

        found = [self._over_rows(("likelihood", steps), measure, one, self.params, rows, batch) for one in _seeds(seed, draws)]
        numbers = math.prod(parts.shape.row)
        nll_NT, bound_N = (np.mean([one[i].astype(np.float64) for one in found], axis=0) / (numbers * math.log(2)) for i in (0, 1))
        about = dict(steps=steps, level=self.level, numbers=numbers, draws=draws)
        return results.Likelihoods(trajectory_bits=nll_NT.mean(axis=1), bound_bits=bound_N, by_step=nll_NT, **about)

    def denoise(self, x, label=None, *, level=None, steps=None, seed=0, batch=64):
        """Score denoising of noisy images: the clean image that the model expects behind each.

        A trajectory is drawn onward from x, which is its level 0, and moved by the gradient of its log-density. With an
        autoencoder noise is in latents: x are noisy latents (see `encode`), and what comes back is decoded.

        Args:
          x (array): noisy images [N, H, W, C], x = (1 - level) · clean + level · noise.
          label: as in `log_likelihood`.
          level (float | None): the time of x, above 0; None is `self.level`.
          steps (int | None): T, as in `sample`.
          seed (int): image i's trajectory is a function of the seed and i.
          batch (int): images computed at once at most.

        Returns:
          images (numpy.ndarray): float32 [N, H, W, C], cut to [-1, 1].

        Raises:
          ValueError: as `log_likelihood`, and for a level that is not below the first of the steps.
        """
        parts = self.parts
        asking.require_likelihood(parts, "denoise")
        level = asking.level(parts, level, asking.steps(parts, steps))
        most = 0 if parts.told["latents"] or parts.autoencoder else 1 + asking.SLACK * level
        steps, rows, batch = self._told(x, parts.shape.image, most, label, steps, batch)
        rows["level"] = np.full(len(rows["x"]), level, np.float32)

        def made(seed, params, rows):
            t_BT = chain.schedule(rows["level"], steps, parts.config.ntm.shift)
            xs_BTNd = chain.onward(sampling.keys(seed, rows["index"]), cutting.cut(rows["x"], parts.shape.patch), t_BT)
            given = (params, xs_BTNd, t_BT, _condition(rows), parts.config.denoiser.clip)
            return cutting.join(sampling.scored(parts.config, parts.shape, *given), parts.shape.image, parts.shape.patch)

        found = self._over_rows(("denoise", steps), made, asking.whole("seed", seed, 0), self.params, rows, batch)
        return self.decode(found, batch=batch)

    def encode(self, x, *, batch=64):
        """What the model's networks see of images [N, H, W, C]: whitened latents with an autoencoder, else the images."""
        if self.parts.autoencoder is None:
            return asking.images(x, self.shape, 0)
        return self._by_autoencoder(autoencoder.encode, asking.images(x, self.shape, 0), batch)

    def decode(self, x, *, batch=64):
        """Images of what the networks draw: decoded with an autoencoder, cut to [-1, 1]; latents that nothing decodes stay."""
        x = asking.images(x, self.parts.shape.image, 0)
        if self.parts.autoencoder is not None:
            return self._by_autoencoder(autoencoder.decode, x, batch)
        return x if self.parts.told["latents"] else np.clip(x, -1.0, 1.0)

    def _told(self, x, shape, most, label, steps, batch):
        """(T, rows of images with what the model is told of them, images at once)."""
        parts = self.parts
        x = asking.images(x, shape, 0 if parts.told["latents"] else most)
        y = asking.labels(parts, label, len(x))
        if y is None and (parts.shape.classes or parts.shape.vector) and not parts.told["drop"]:
            raise ValueError(f"label None hides the label, and {self.name} was trained with all of them: give label")
        return asking.steps(parts, steps), self._rows(len(x), x=x, y=y), asking.whole("batch", batch, 1, asking.MOST)

    def _rows(self, count, **more):
        return {"index": np.arange(count, dtype=np.int32)} | {name: value for name, value in more.items() if value is not None}

    def _by_autoencoder(self, function, x, batch):
        cfg, params = self.parts.autoencoder
        made = lambda _, params, rows: function(cfg, params, rows["x"])
        return self._over_rows(function, made, 0, params, {"x": x}, asking.whole("batch", batch, 1, asking.MOST))

    def _over_rows(self, what, function, seed, weights, rows, batch):
        """`function(seed, weights, rows)` of all rows, `batch` at once, as numpy; `what` and the kinds of rows name the program."""
        key, split = (what, tuple(rows)), meshes.batch_sharding(self._mesh)
        if key not in self._programs:
            options = dict(in_shardings=(None, split), out_shardings=split)
            self._programs[key] = meshes.seeded(self._mesh, function, seed, **options)
        program = dataclasses.replace(self._programs[key], seed=seed)
        run = functools.partial(program, weights)
        return pipeline.mapped(self._mesh, run, rows, min(batch, len(next(iter(rows.values())))), "images")


def _condition(rows):
    return networks.Condition(rows["y"], jnp.ones(rows["y"].shape[0], bool)) if "y" in rows else None


def _seeds(seed, draws):
    """The seeds of all draws: the first is `seed` itself."""
    further = [int(np.random.SeedSequence((seed, draw)).generate_state(1)[0]) for draw in range(1, draws)]
    return [seed, *further]

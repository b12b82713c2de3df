"""Metrics of images: a judge that reads digits, distances that are those of Gaussians, no number of the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsdfm_jax.data import image_labels, images
from tsdfm_jax.evaluation import image_metrics
from tsdfm_jax.models import classifier
from tsdfm_jax.runtime import mesh as meshes, state as states

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def digits():
    """(training images, their classes, held-out images, theirs) of scikit-learn."""
    found = images.read(images.ImagesConfig())
    train, heldout = image_labels.split(found.y, len(found.y), 0.165, 0)
    return found.x_NHWC[train], found.y[train], found.x_NHWC[heldout], found.y[heldout]


@pytest.fixture(scope="module")
def judge(mesh, digits):
    """A small classifier of the digits after 150 updates."""
    x, y, *_ = digits
    cfg = classifier.ClassifierConfig(size=8, image_channels=1, classes=10, width=16)
    optimiser = states.OptimiserConfig(learning_rate=5e-3, warmup=10, steps=STEPS, ema=0.98, final_fraction=0.02)
    loss = lambda key, params, batch: image_metrics.loss(cfg, key, params, batch)
    init = lambda seed: classifier.init(jax.random.key(seed), cfg)
    learner = states.learner(init, loss, optimiser, mesh, 0, given=(meshes.seed_word(0),))
    state, rng = learner.create(), np.random.default_rng(0)
    for _ in range(STEPS):
        rows = rng.integers(0, len(x), 64)
        state, _ = learner.step(state, meshes.put_batch(mesh, {"x": x[rows], "y": y[rows]}))
    return image_metrics.Judge(cfg=cfg, params=state.averaged, mesh=mesh)


STEPS = 150


def test_the_judge_reads_digits(judge, digits):
    """After a few updates it reads held-out digits, and reads noise at chance."""
    unseen, heldout = ({"x": x, "y": y} for x, y in (digits[2:], digits[2:]))
    features, real = image_metrics.of_real(judge, unseen, heldout, 0)
    np.testing.assert_array_equal(features, judge(digits[2])[1])
    assert real["accuracy"] > 0.95, real
    noise = RNG.uniform(-1, 1, digits[2].shape)
    row = image_metrics.measured(judge, noise, digits[3], judge(digits[2])[1])
    assert row["accuracy"] < 0.35 and row["frechet"] > 10 * real["frechet_halves"]["mean"]


def test_no_number_depends_on_the_batch(judge, digits, mesh):
    """Logits and features are the same, whatever is measured at once, and on eight devices; the order of images stays."""
    x = digits[2][:50]
    whole = judge(x)
    for batch in (1, 7, 64):
        other = image_metrics.Judge(cfg=judge.cfg, params=judge.params, mesh=mesh, batch=batch)(x)
        for a, b in zip(whole, other):
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
    eight = meshes.make_mesh(meshes.MeshConfig())
    params = jax.device_put(jax.tree.map(np.asarray, judge.params), meshes.replicated(eight))
    np.testing.assert_allclose(
        image_metrics.Judge(cfg=judge.cfg, params=params, mesh=eight, batch=3)(x)[1], whole[1], atol=1e-4, rtol=1e-4
    )


def test_accuracy_is_the_share_that_is_as_asked():
    """Half right is a half; without logits there is none."""
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    assert image_metrics.accuracy(logits, np.array([0, 1, 1, 1])) == 0.5
    assert image_metrics.accuracy(None, None) is None


def test_frechet_of_gaussians():
    """For samples of two Gaussians it is near |m|² + Σ (s - r)², which is its closed form."""
    a, b = RNG.normal(size=(40_000, 3)) * [1, 2, 3], RNG.normal(size=(40_000, 3)) * [2, 2, 1] + [1, 0, 2]
    assert image_metrics.frechet(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=0.02)


def test_halves_of_real_images():
    """Halves of one set are as far apart as the bias of their size says, F (F + 5) / 2N; seeds fix them; few images are refused."""
    features = RNG.normal(size=(2000, 4))
    found = image_metrics.frechet_halves(features, 0, splits=40)
    assert found["images"] == 1000 and found["mean"] == pytest.approx(4 * 9 / 2000, rel=0.3) and 0 < found["spread"] < found["mean"]
    assert image_metrics.frechet_halves(features, 0) == image_metrics.frechet_halves(features, 0)
    assert image_metrics.frechet_halves(features, 0) != image_metrics.frechet_halves(features, 1)
    with pytest.raises(ValueError, match="3 images have no halves"):
        image_metrics.frechet_halves(features[:3], 0)


def test_halves_have_their_classes_balanced():
    """Features that say the class alone are as far apart as the classes' numbers: halves by class are not apart at all."""
    y = RNG.integers(0, 4, 400)
    features = np.eye(4)[y] + RNG.normal(size=(400, 4)) * 1e-3
    assert image_metrics.frechet_halves(features, 0, y)["mean"] < 1e-5 < image_metrics.frechet_halves(features, 0)["mean"]
    with pytest.raises(ValueError, match="2 or more of each class"):
        image_metrics.frechet_halves(features[:9], 0, np.array([0, 0, 1, 1, 2, 2, 2, 2, 3]))


def test_without_classes_pixels_are_the_features(mesh, digits):
    """Without a classifier there is no accuracy; projections keep distances in a fixed subspace, small images are kept whole."""
    judge = image_metrics.Judge(cfg=None, params=None, mesh=mesh)
    row = image_metrics.measured(judge, digits[0][:200], None, judge(digits[2])[1])
    assert (
        row["accuracy"] is None
        and row["frechet"] < image_metrics.measured(judge, -digits[0][:200], None, judge(digits[2])[1])["frechet"]
    )
    assert np.array_equal(image_metrics.projections(digits[2]), digits[2].reshape(len(digits[2]), -1))
    x = RNG.normal(size=(30, 12, 12, 3))
    once = image_metrics.projections(x)
    assert once.shape == (30, image_metrics.PROJECTIONS) and np.allclose(once[3:5], image_metrics.projections(x[3:5]))
    assert (np.linalg.norm(once, axis=1) <= np.linalg.norm(x.reshape(30, -1), axis=1)).all()


def test_shifts_move_by_a_pixel_at_most():
    """Each image is one of its nine shifts, each drawn by itself; the edge is repeated; small images stay."""
    x = jnp.asarray(RNG.normal(size=(64, 4, 4, 1)))
    moved, padded = image_metrics.shifted(jax.random.key(0), x, 1), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    which = [[np.array_equal(moved[i], padded[i, a : a + 4, b : b + 4]) for a in range(3) for b in range(3)] for i in range(64)]
    assert np.sum(which) == 64 and np.any(which, axis=0).all()
    assert np.array_equal(image_metrics.shifted(jax.random.key(0), x, 0), x)


def test_a_judge_needs_two_classes():
    """A single class is refused."""
    with pytest.raises(ValueError, match="1 classes"):
        classifier.ClassifierConfig(size=8, image_channels=1, classes=1)
    assert classifier.ClassifierConfig(size=28, image_channels=1, classes=10).features == 128

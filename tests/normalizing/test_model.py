"""Models of images from Python: images, likelihoods, denoising; labels of every kind; bad input is one line."""

import dataclasses
import io
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.normalizing import making
from tsdfm_jax import load
from tsdfm_jax.data import image_records
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.models import autoencoder
from tsdfm_jax.normalizing import heldout, networks, results, sampling
from tsdfm_jax.ntm import chain, patches as cutting
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import atomic

ROOT = pathlib.Path(__file__).parents[2]
CODER = autoencoder.AutoencoderConfig(size=8, image_channels=1, channels=2, halvings=1, width=8)


@pytest.fixture(scope="module")
def model(finished_ntm):
    return load(finished_ntm)


@pytest.fixture(scope="module")
def rows(finished_ntm):
    """The held-out images that the stage measured."""
    return image_records.arrays(finished_ntm / "images", "heldout", 16)


def test_what_it_says_of_itself(model, finished_ntm):
    """Shape, classes, steps, level, parameters and hash are those of the run; it is the model ntm."""
    meta = json.loads((finished_ntm / "ntm/model/meta.json").read_text())
    assert (model.shape, model.classes, model.steps, model.level) == ((8, 8, 1), tuple("0123456789"), (2,), 0.02)
    figures = json.loads((finished_ntm / "ntm/done.json").read_text())["figures"]
    assert (model.hash, model.parameters) == (meta["hash"], figures["parameters"]) and model.name.startswith("ntm of ")


def test_an_image_is_a_function_of_the_seed_and_its_number(model, finished_ntm):
    """Not of how many are drawn; the stage drew the same; another mesh draws the same to rounding."""
    few, many = model.sample(number=4, batch=8), model.sample(number=11, batch=8)
    assert few.images.dtype == np.float32 and few.images.min() >= -1 and few.images.max() <= 1
    assert many.labels.tolist() == [*range(10), 0] and many.images.shape == (11, 8, 8, 1)
    np.testing.assert_array_equal(few.images, many.images[:4])
    with np.load(finished_ntm / "samples/sample.npz") as stored:
        np.testing.assert_array_equal(stored["images"], few.images)
        np.testing.assert_array_equal(stored["labels"], few.labels)
    other = model.sample(number=4, batch=8, seed=1)
    assert all(np.abs(other.images[i] - few.images[i]).max() > 0.1 for i in range(4))
    spread = load(finished_ntm, mesh=meshes.make_mesh(meshes.MeshConfig(data=2, fsdp=2, tensor=2)))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(spread.params))
    np.testing.assert_allclose(spread.sample(number=4, batch=8).images, few.images, atol=2e-4)


@pytest.mark.parametrize("label", [3, "3", np.int64(3), [3, "3", 3, np.int8(3)], ("3",) * 4, np.full(4, 3), jnp.full(4, 3)])
def test_labels_of_every_kind(model, label):
    """A number, a name, a list with one for each image, an array: all are class 3."""
    found = model.sample(label, number=np.int64(4), batch=8, steps=np.int32(2))
    np.testing.assert_array_equal(found.images, model.sample([3] * 4, batch=8).images)
    assert found.labels.tolist() == [3] * 4 and found.labels.dtype == np.int32


def test_the_label_counts(model):
    """Another class is another image, of the same noise."""
    assert np.abs(model.sample(3, number=4, batch=8).images - model.sample(4, number=4, batch=8).images).max() > 1e-4


def test_its_likelihoods_are_those_of_the_stage(model, rows, finished_ntm):
    """With the stage's seed they have its means; a mean of two draws is that of each; the label counts."""
    [stage] = json.loads((finished_ntm / "ntm/done.json").read_text())["figures"]["likelihoods"]
    found = model.log_likelihood(rows["x"], rows["y"], seed=heldout.SEED, batch=16)
    assert found.trajectory_bits.mean() == pytest.approx(stage["trajectory_bits"], rel=1e-5)
    assert found.bound_bits.mean() == pytest.approx(stage["bound_bits"], rel=1e-5)
    np.testing.assert_allclose(found.by_step.mean(axis=0), stage["by_step"], rtol=1e-5)
    assert (found.steps, found.level, found.numbers, found.draws) == (2, 0.02, 64, 1) and found.bound_bits.shape == (16,)
    twice = model.log_likelihood(rows["x"], rows["y"], seed=heldout.SEED, draws=2, batch=16)
    second = 2 * twice.bound_bits - found.bound_bits
    assert np.isfinite(second).all() and np.abs(second - found.bound_bits).min() > 1e-3
    hidden = model.log_likelihood(rows["x"], seed=heldout.SEED, batch=16)
    assert np.abs(hidden.by_step[:, 1] - found.by_step[:, 1]).max() > 1e-6


def test_denoising_is_by_the_score_of_a_trajectory_from_the_image(model, rows):
    """It is score denoising of a trajectory whose level 0 is the image; a higher level is told to the model."""
    x, parts = 0.9 * rows["x"][:8], model.parts
    found = model.denoise(x, rows["y"][:8], level=0.1, seed=7)

    def by_hand(params, x_BHWC, y_B):
        t_BT = chain.schedule(jnp.full(8, 0.1), 2, parts.config.ntm.shift)
        xs_BTNd = chain.onward(sampling.keys(7, jnp.arange(8)), cutting.cut(x_BHWC, 2), t_BT)
        condition = networks.Condition(y_B, jnp.ones(8, bool))
        x_BNd = sampling.scored(parts.config, parts.shape, params, xs_BTNd, t_BT, condition, 1.0)
        return cutting.join(xs_BTNd[:, 0], (8, 8, 1), 2), cutting.join(x_BNd, (8, 8, 1), 2)

    first, expected = jax.jit(by_hand)(jax.device_get(model.params), x, rows["y"][:8])
    np.testing.assert_array_equal(first, x)
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=1e-3)
    assert np.abs(found - model.denoise(x, rows["y"][:8], seed=7)).max() > 1e-3


def test_the_chain_goes_onward_from_an_image():
    """Level k has mean α x and deviation σ, and at time 1 nothing of x is left. False alarms: under 1 in 10^6 (5 deviations)."""
    t_T, count = jnp.asarray([0.1, 0.4, 1.0]), 4096
    made = lambda rows: sampling.keys(3, jnp.arange(rows))
    xs_BTNd = np.asarray(chain.onward(made(count), jnp.full((count, 1, 1), 2.0), jnp.broadcast_to(t_T[None], (count, 3))))
    assert (xs_BTNd[:, 0] == 2.0).all()
    for k, (mean, deviation) in {1: (2 * 0.6 / 0.9, np.sqrt(0.4**2 - (0.1 * 0.6 / 0.9) ** 2)), 2: (0.0, 1.0)}.items():
        assert abs(xs_BTNd[:, k].mean() - mean) < 5 * deviation / np.sqrt(count)
        assert abs(xs_BTNd[:, k].std() / deviation - 1) < 5 / np.sqrt(2 * count)
    np.testing.assert_array_equal(xs_BTNd[:4], chain.onward(made(4), jnp.full((4, 1, 1), 2.0), jnp.tile(t_T[None], (4, 1))))


def test_other_models_of_the_run(finished_ntm, rows):
    """ntm_identity has likelihoods, flow matching has none and takes any number of steps; each has its own hash."""
    identity, flow = load(finished_ntm, "ntm_identity"), load(finished_ntm, "flow_matching")
    assert identity.log_likelihood(rows["x"], 1).bound_bits.shape == (16,) and identity.hash != flow.hash
    assert flow.sample(steps=3, number=2).images.shape == (2, 8, 8, 1) and flow.steps == ()
    for call, said in (
        (lambda: flow.log_likelihood(rows["x"]), "log_likelihood is of models with a likelihood"),
        (lambda: flow.denoise(rows["x"]), "denoise is of models with a likelihood"),
        (lambda: flow.sample(denoise="score"), "denoise 'score' is of models"),
        (lambda: flow.sample(noise_free=True), "noise_free True is of models"),
        (lambda: identity.sample(denoise="learned"), "learns from the model ntm alone"),
        (lambda: load(finished_ntm, "denoiser"), "'denoiser' is not one of flow_matching, ntm, ntm_identity"),
    ):
        refused(call, said)


def refused(call, said):
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


WRONG = {
    "steps 4 is not one that ntm of": dict(steps=4),
    "steps 2.0 must be a whole number": dict(steps=2.0),
    "number 0 must be a whole number": dict(number=0),
    "number True must be": dict(number=True),
    "seed -1 must be": dict(seed=-1),
    "batch 0 must be": dict(batch=0),
    "guidance -1 must be a number": dict(guidance=-1),
    "guidance nan must be": dict(guidance=float("nan")),
    "guidance 'much' must be": dict(guidance="much"),
    "denoise 'best' is not one of none, score, learned": dict(denoise="best"),
    "noise_free is True: take one": dict(denoise="score", noise_free=True),
    "label 10 is no class: take a number from 0 to 9, or a name of '0' to '9'": dict(label=10),
    "label -1 is no class": dict(label=-1),
    "label 3.0 is no class": dict(label=3.0),
    "label True is no class": dict(label=True),
    "label 'ten' is no class": dict(label="ten"),
    "label names 2 classes for 3 images": dict(label=[1, 2], number=3),
    "label names 0 images": dict(label=[]),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_drawn_is_one_line(model, said):
    """It names the argument, its value, and what to give instead."""
    refused(lambda: model.sample(**WRONG[said]), said)


def test_images_that_it_cannot_read_are_one_line(model, rows):
    """A wrong shape or type, a number that is not finite, pixels from 0 to 255, a level beyond the first."""
    x = rows["x"]
    broken = np.where(np.arange(len(x))[:, None, None, None] == 2, np.nan, x)
    for call, said in (
        (lambda: model.log_likelihood(x[0]), "x of shape [8, 8, 1] and type float32 must be numbers [N, 8, 8, 1]"),
        (lambda: model.log_likelihood([[1], [1, 2]]), "must be numbers [N, 8, 8, 1]"),
        (lambda: model.log_likelihood(x > 0), "type bool must be"),
        (lambda: model.log_likelihood(x[:0]), "x of shape [0, 8, 8, 1]"),
        (lambda: model.log_likelihood(broken), "not finite, in image 2"),
        (lambda: model.log_likelihood((127.5 * (x + 1)).astype(np.uint8)), "scale pixels by x / 127.5 - 1"),
        (lambda: model.log_likelihood(x, [1, 2]), "label names 2 classes for 16 images"),
        (lambda: model.log_likelihood(x, draws=0), "draws 0 must be"),
        (lambda: model.denoise(x, level=0.9), "level 0.9 must be above 0 and below 0.6128"),
        (lambda: model.denoise(x, level=0), "level 0 must be above 0"),
        (lambda: model.denoise(50 * x), "has a number of size"),
        (lambda: making.model(classes=2, drop=0.0).log_likelihood(np.zeros((1, 4, 4, 2))), "label None hides the label"),
        (lambda: making.model(classes=2, drop=0.0).sample(guidance=1), "trained with hidden labels"),
        (lambda: making.model().sample(guidance=1), "guidance 1 needs labels"),
        (lambda: making.model().sample(0), "which knows no labels: leave it out"),
    ):
        refused(call, said)


def test_vectors():
    """A vector for all images or one for each; without any, or with other shapes, it is one line."""
    model, vectors = making.model(vector=3), np.eye(3, dtype=np.float32)
    found = model.sample(vectors, steps=2)
    assert found.images.shape == (3, 4, 4, 2) and found.labels.shape == (3, 3)
    one = model.sample(vectors[1].tolist(), steps=2, number=3)
    np.testing.assert_allclose(one.images[1], found.images[1], atol=1e-5)
    assert np.abs(one.images[0] - found.images[0]).max() > 1e-6 and model.sample(vectors[0], steps=2, number=1).images.shape[0] == 1
    refused(lambda: model.sample(), "label None does not say what to draw: give ntm of hand vectors of 3 numbers")
    for label in (2, "a", vectors[:, :2], [np.nan, 0, 0], np.zeros((2, 3))):
        refused(lambda: model.sample(label, number=3), "must be finite vectors of 3 numbers, one or 3 of them")


def test_an_autoencoder_stands_between():
    """Images are encoded before their likelihood, which is that of the latents; what is drawn or denoised is decoded."""
    model, bare = making.model(coder=CODER), making.model(latents=True)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    z = model.encode(x)
    assert (model.shape, z.shape, bare.shape) == ((8, 8, 1), (3, 4, 4, 2), (4, 4, 2))
    drawn = bare.sample(number=3, steps=2).images
    np.testing.assert_allclose(model.sample(number=3, steps=2).images, model.decode(drawn), atol=1e-5)
    of_images, of_latents = (one.log_likelihood(given, steps=1) for one, given in ((model, x), (bare, z)))
    np.testing.assert_allclose(of_images.bound_bits, of_latents.bound_bits, rtol=1e-4)
    assert of_images.numbers == 32
    np.testing.assert_allclose(model.denoise(z), model.decode(bare.denoise(z)), atol=1e-4)
    refused(lambda: model.log_likelihood(z), "must be numbers [N, 8, 8, 1]")
    refused(lambda: model.denoise(x), "must be numbers [N, 4, 4, 2]")


def test_what_it_gives_is_shown_and_saved(tmp_path):
    """PNG in a notebook and on disk, .npz with images and labels; small images are enlarged; other suffixes are one line."""
    x = np.linspace(-1, 1, 4 * 7 * 7).reshape(4, 7, 7, 1).astype(np.float32)
    found = results.Images(images=x, labels=np.arange(4, dtype=np.int32))
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert shown.size == (8 * 15, 8 * 15) and Image.open(io.BytesIO(found.picture(columns=4, scale=1))).size == (31, 7)
    assert Image.open(found.save(tmp_path / "new/a.png")).size == shown.size and len(found) == 4
    with np.load(found.save(str(tmp_path / "a.npz"))) as stored:
        np.testing.assert_array_equal(stored["images"], x)
        assert stored["labels"].tolist() == [0, 1, 2, 3]
    with np.load(dataclasses.replace(found, labels=None).save(tmp_path / "b.npz")) as stored:
        assert set(stored) == {"images"}
    assert repr(found) == "Images(4 of 7 × 7 × 1)"
    refused(lambda: found.save(tmp_path / "a.jpg"), "a.jpg has neither suffix")
    refused(lambda: found.picture(scale=0), "scale 0 must be")


def test_parts_that_were_not_made_with_each_other(finished_ntm, tmp_path):
    """A denoiser that learnt from another network is refused, and a network of other images."""
    run = shutil.copytree(finished_ntm, tmp_path / "run")
    for artefact, other, call in (
        ("denoiser", "ntm", lambda: load(run).sample(denoise="learned", number=1)),
        ("ntm", "images", lambda: load(run)),
    ):
        record = bookkeeping.done(run / artefact)
        record["made_of"]["inputs"][other][1] = "0" * 64
        bookkeeping.restamp(run / artefact, record)
        refused(call, f"{artefact} was made from another {other} than")
    (run / "ntm/done.json").unlink()
    refused(lambda: load(run), "run --stage=ntm first")
    config = atomic.read_json(run / "config.json") | {"models": ["flow_matching"]}
    (run / "config.json").write_text(json.dumps(config))
    assert load(run).name.startswith("flow_matching of ")
    refused(lambda: load(run, "ntm"), "model 'ntm' is not among models")


def test_the_python_of_the_page_runs(finished_ntm, tmp_path, monkeypatch, capsys):
    """What docs/ntm.md shows, on this run."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/ntm.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/ntm_digits").symlink_to(finished_ntm)
    space = {}
    exec(compile(code, "docs/ntm.md", "exec"), space)
    assert (
        (tmp_path / "threes.png").exists() and space["clean"].shape == (16, 8, 8, 1) and "(16, 8, 8, 1)" in capsys.readouterr().out
    )

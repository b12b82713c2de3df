"""Exported models of images: they load back to the bit, cards say what the files say, and errors are one line."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests import showing_images, tiny
from tests.normalizing import making
from tsdfm_jax import load
from tsdfm_jax.exchange import external, image_card, image_directory, model_export
from tsdfm_jax.models import autoencoder
from tsdfm_jax.normalizing import model as models
from tsdfm_jax.runtime import checkpoint, mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]
FILES = {"README.md", "config.json", "model.safetensors"}
CODER = autoencoder.AutoencoderConfig(size=8, image_channels=1, channels=2, halvings=1, width=8)


def one_device():
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def exported(finished_ntm, tmp_path_factory):
    """{model: directory} of the tiny run's models."""
    root = tmp_path_factory.mktemp("exported")
    for model in ("ntm", "flow_matching"):
        model_export.export(finished_ntm, root / model, model=model)
    return {path.name: path for path in root.iterdir()}


def test_what_is_exported_comes_back_to_the_bit(finished_ntm, exported):
    """Without its run it has the hash, the images and the denoiser of the run's model."""
    assert {path.name for path in exported["ntm"].iterdir()} == FILES
    own, back = load(finished_ntm), load(exported["ntm"], "ntm")
    assert (own.hash, own.shape, own.classes, own.steps, own.level) == (back.hash, back.shape, back.classes, back.steps, back.level)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), own.params, back.params))
    for options in ({}, {"denoise": "learned"}):
        found = [one.sample(number=4, batch=8, **options).images for one in (own, back)]
        np.testing.assert_array_equal(*found)
    spread = load(exported["ntm"], mesh=meshes.make_mesh(meshes.MeshConfig(data=2, fsdp=2, tensor=2)))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(spread.params)) and spread.hash == own.hash
    flow = load(exported["flow_matching"])
    assert flow.hash == load(finished_ntm, "flow_matching").hash and flow.sample(steps=3, number=2).images.shape == (2, 8, 8, 1)


def test_a_model_with_an_autoencoder_and_vectors(tmp_path):
    """Both come back; the model of latents draws, encodes and decodes as before."""
    parts = making.parts(coder=CODER, vector=3)
    origin = {"run": "hand", "command": None, "commit": None, "config": {}}
    about = image_directory.of_parts(parts, tmp_path / "out", "float32", origin)
    params = {name: np.asarray(value) for name, value in image_directory.weights(parts).items()}
    card = lambda about: image_card.describe(about, models.Model(parts, one_device())) + image_card.usage(about)
    image_directory.write(about, params, card)
    own, back = models.Model(parts, one_device()), load(tmp_path / "out", mesh=one_device())
    assert (back.shape, back.parts.autoencoder[0], back.parts.told) == ((8, 8, 1), CODER, parts.told)
    y = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(own.sample(y, steps=1).images, back.sample(y, steps=1).images)
    with pytest.raises(ValueError, match="the directory holds none: export the model ntm"):
        back.sample(y, denoise="learned")
    card = (tmp_path / "out/README.md").read_text()
    assert "with latents of 4 × 4 × 2" in card and "vectors of 3" in card and "vector_V = [0.0] * 3" in card


def test_the_card_says_what_the_files_say(finished_ntm, tmp_path):
    """With the report of these weights it has their figures; without one, or of others, it says so."""
    run = shutil.copytree(finished_ntm, tmp_path / "run")
    model_export.export(run, tmp_path / "bare")
    bare = (tmp_path / "bare/README.md").read_text()
    assert "No figures are given" in bare and "Fréchet" not in bare and "label='0', steps=2" in bare
    report = showing_images.report()
    report["stages"]["ntm"] = {"hash": load(run, mesh=one_device()).hash}
    (run / "report").mkdir()
    (run / "report/report.json").write_text(json.dumps(report))
    model_export.export(run, tmp_path / "told", dtype="bfloat16")
    card = (tmp_path / "told/README.md").read_text()
    row = next(one for one in report["likelihoods"] if one["model"] == "ntm")
    assert (
        f"{row['steps']} steps: {row['trajectory_bits']:.3f} bits of trajectories (exact), {row['bound_bits']:.3f} (bound)" in card
    )
    assert "| NTM | 4 | 0 | noise-free |" in card and "| flow matching | 4 |" in card and "no transporter |" not in card
    assert report["verdict"] in card and report["command"] in card and "those of the weights before rounding" in card
    report["stages"]["ntm"]["hash"] = "0" * 64
    (run / "report/report.json").write_text(json.dumps(report))
    model_export.export(run, tmp_path / "other")
    assert "is of other weights than these" in (tmp_path / "other/README.md").read_text()


def test_bfloat16_halves_the_file(finished_ntm, exported, tmp_path):
    """The rounded weights are stored, with the hash of those in float32."""
    about = model_export.export(finished_ntm, tmp_path / "half", dtype="bfloat16")
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (exported["ntm"], tmp_path / "half")]
    own, back = load(exported["ntm"], mesh=one_device()), load(tmp_path / "half", mesh=one_device())
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(jax.numpy.bfloat16).astype(np.float32), own.params)
    assert 0.45 < sizes[1] / sizes[0] < 0.65 and back.hash == checkpoint.tree_hash(rounded) != own.hash
    assert (
        about.hash == image_directory.read_about(tmp_path / "half").hash
        and "rounded to bfloat16" in (tmp_path / "half/README.md").read_text()
    )


def edit(change):
    """A step that applies `change` to the object in config.json."""

    def step(directory):
        body = json.loads((directory / "config.json").read_text())
        change(body)
        (directory / "config.json").write_text(json.dumps(body))

    return step


def network(section, **values):
    return edit(lambda body: body["network"][section].update(values))


def weights(change):
    """A step that applies `change` to the stored arrays."""

    def step(directory):
        names = safetensors.load_file(directory / "model.safetensors")
        change(names)
        safetensors.save_file(names, directory / "model.safetensors")

    return step


BIAS = "model/predictor/mean/bias"
ACCIDENTS = {
    "another kind": (edit(lambda body: body.update(kind="judge")), "kind 'judge' is not one of teacher, student"),
    "another name": (edit(lambda body: body.update(name="start")), "name 'start' is not one of"),
    "a kind that the name is not": (edit(lambda body: body.update(kind="flow_matching")), "are not of one model"),
    "a later version": (edit(lambda body: body.update(version=2)), "version 2, and this code reads 1"),
    "no network": (edit(lambda body: body.pop("network")), "network None"),
    "no width": (edit(lambda body: body["network"]["model"].pop("width")), "width None"),
    "heads of nothing": (network("model", heads=0), "heads 0"),
    "heads that do not divide": (network("model", heads=3), "does not split into 3 heads"),
    "another dtype": (network("model", dtype="float8"), "'float8'"),
    "a width beyond measure": (network("model", width=2**30), "more than any model has"),
    "an image of two numbers": (network("data", image=[8, 8]), "image [8, 8]"),
    "an image beyond measure": (network("data", image=[2**30, 8, 1]), "image [1073741824, 8, 1]"),
    "a patch that does not divide": (network("data", patch=3), "images.patch 3 does not divide"),
    "classes and vectors": (network("data", vector=2), "not both"),
    "steps of nothing": (network("levels", steps=[0]), "steps 0"),
    "levels beyond noise": (network("levels", end=1.5), "levels end at 1.5"),
    "levels that are no number": (edit(lambda body: body["network"]["levels"].update(shift=float("nan"))), "shift nan"),
    "a quantile of nothing": (edit(lambda body: body["network"].update(clip=0)), "clip 0.0 are no shares"),
    "names that are too few": (edit(lambda body: body.update(classes=["0"])), "classes has 1 names, and the networks know 10"),
    "names that are none": (edit(lambda body: body.update(classes=[0] * 10)), "classes 0 is not a str"),
    "an autoencoder that does not fit": (
        edit(lambda body: body.update(autoencoder={**vars(CODER)})), "the autoencoder has latents (4, 4, 2)",
    ),
    "half an autoencoder": (edit(lambda body: body.update(autoencoder={"size": 8})), "image_channels None"),
    "no denoiser": (edit(lambda body: body.update(denoiser=False)), "holds 'denoiser/"),
    "no weights": (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a name is missing": (weights(lambda names: names.pop(BIAS)), f"lacks '{BIAS}' (1 of"),
    "a name is extra": (weights(lambda names: names.update(x=np.ones(3))), "holds 'x', which a ntm"),
    "a shape is wrong": (weights(lambda names: names.update({BIAS: np.ones(3, np.float32)})), f"'{BIAS}' has shape (3,)"),
    "a value is wrong": (weights(lambda names: names.update({BIAS: names[BIAS] + 1})), "has content hash"),
    "half a config": (lambda directory: (directory / "config.json").write_text('{"format": '), "cannot be read as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_accidents_are_one_line(accident, exported, tmp_path):
    """Anything missing, damaged, unknown or beyond measure is named, with its file, in one line."""
    shutil.copytree(exported["ntm"], tmp_path / "model")
    step, said = ACCIDENTS[accident]
    step(tmp_path / "model")
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "model", mesh=one_device())
    assert said in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_models_of_images_where_text_is_asked_for(finished_ntm, exported):
    """As a teacher, for `launch.sample`, under another name, and as models of the other method, each is refused in one line."""
    for call, said in (
        (
            lambda: external.read_about(tiny.changed(**{"teacher.path": str(exported["ntm"])}), "teacher"),
            "holds a model of images, ntm",
        ),
        (lambda: load(exported["ntm"], "ntm_identity"), "holds ntm, not 'ntm_identity'"),
        (lambda: load(finished_ntm, "teacher"), "model 'teacher' is not one of flow_matching, ntm, ntm_identity"),
        (lambda: model_export.export(finished_ntm, "out", model="denoiser"), "--model 'denoiser' is not one of"),
        (lambda: model_export.export(finished_ntm, exported["ntm"]), "holds a model already"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_the_commands(finished_ntm, exported, tmp_path):
    """launch.export exports ntm by default; launch.sample says that it writes text."""
    call = lambda *arguments: subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    done = call("launch.export", f"--workdir={finished_ntm}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith("ntm of "), done.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (exported["ntm"] / "model.safetensors").read_bytes()
    done = call("launch.sample", f"--model={exported['ntm']}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "draws images, and this command writes text" in done.stderr

"""The first two stages of NTM: images and their latents on disk, made once, mended where they are damaged."""

import json
import shutil
import types

import numpy as np
import pytest

from tests import ntm_tiny
from tsdfm_jax.config import settings
from tsdfm_jax.data import image_records, images
from tsdfm_jax.evaluation import image_judging
from tsdfm_jax.normalizing import autoencoder_training as training
from tsdfm_jax.runtime import metrics
from tsdfm_jax.stages.ntm import autoencoder, images as images_stage

CONFIG = ntm_tiny.changed(**{"autoencoder.channels": 3, "images.patch": 2})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    images_stage.run(CONFIG, workdir)
    autoencoder.run(CONFIG, workdir)
    return workdir


def figures(workdir, name):
    return json.loads((workdir / name / "done.json").read_text())["figures"]


def files(directory):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in directory.rglob("*") if file.is_file()}


def test_images_on_disk_are_those_of_the_package(made):
    """Both splits together are the images that the limit draws, each once, and the figures count them."""
    found = [image_records.arrays(made / "images", split) for split in image_records.SPLITS]
    x, y = (np.concatenate([part[field] for part in found]) for field in "xy")
    source = images.read(images.ImagesConfig(limit=128))
    order = lambda x: np.lexsort(x.reshape(len(x), -1).T)
    assert np.array_equal(x[order(x)], source.x_NHWC[order(source.x_NHWC)]) and np.array_equal(
        np.bincount(y), np.bincount(source.y)
    )
    told = figures(made, "images")
    assert told["counts"] == {"train": len(found[0]["x"]), "heldout": len(found[1]["x"])} and sum(told["counts"].values()) == 128
    assert told["classes"] == 10 and told["shape"] == [8, 8, 1]


def test_latents_on_disk_are_those_of_the_model_on_disk(made):
    """Encoding the stored images with the stored model gives the stored latents, which have their labels and are white."""
    mesh = settings.mesh(CONFIG)
    cfg, params, digest = training.load(CONFIG, made / "autoencoder", (8, 8, 1), mesh)
    assert figures(made, "autoencoder")["hash"] == digest
    for split in image_records.SPLITS:
        stored = image_records.arrays(made / "autoencoder/latents", split)
        source = image_records.arrays(made / "images", split)
        np.testing.assert_allclose(training.encode(cfg, params, source["x"], mesh, 16), stored["x"], atol=1e-5)
        assert np.array_equal(stored["y"], source["y"])
    z = image_records.arrays(made / "autoencoder/latents", "train")["x"].reshape(-1, 3)
    assert np.abs(z.mean(axis=0)).max() < 1e-3 and np.abs(np.cov(z.T) - np.eye(3)).max() < 0.01
    told = figures(made, "autoencoder")
    assert told["latents"]["shape"] == [4, 4, 3] and told["latents"]["names"] == list("0123456789")
    assert np.isfinite(told["heldout_psnr"]) and told["heldout_frechet"] > 0


def test_what_is_done_is_left_alone(made):
    """A second run writes nothing."""
    parts = [made / "images", made / "autoencoder"]
    before = [files(part) for part in parts]
    images_stage.run(CONFIG, made)
    autoencoder.run(CONFIG, made)
    assert [files(part) for part in parts] == before


def test_a_damaged_shard_is_made_again(made, tmp_path):
    """A shard that lost its end is written again, with the same bytes; the whole ones stay."""
    workdir = shutil.copytree(made, tmp_path / "run")
    shard, other = (workdir / f"images/train/shard-0000{number}.array_record" for number in (0, 1))
    data, when = shard.read_bytes(), other.stat().st_mtime_ns
    shard.write_bytes(data[:-9])
    with pytest.raises(ValueError, match="shard-00000.*--stage=images"):
        image_records.arrays(workdir / "images", "train")
    (workdir / "images/done.json").unlink()
    images_stage.run(CONFIG, workdir)
    assert shard.read_bytes() == data and other.stat().st_mtime_ns == when


@pytest.fixture
def evaluation(made, tmp_path):
    """A function () -> (judge, figures) of the images, in one directory; it takes changes of the config."""

    def judge(**changes):
        with metrics.Metrics(tmp_path, "evaluate") as lines:
            job = types.SimpleNamespace(directory=tmp_path / "evaluate", metrics=lines)
            config = ntm_tiny.changed(**changes)
            return image_judging.train(config, job, made / "images", settings.mesh(config))

    judge.directory = tmp_path / "evaluate"
    return judge


def test_the_judge_is_trained_once(evaluation, made):
    """A second call reads it from disk, also with further models; damage and another width train it again; one remains."""
    first, figures = evaluation()
    [place] = evaluation.directory.glob("classifier-*")
    before = files(place)
    second, again = evaluation(models=("flow_matching",))
    assert files(place) == before and again == figures
    x = image_records.arrays(made / "images", "heldout")["x"]
    np.testing.assert_allclose(first(x)[1], second(x)[1], atol=1e-6)
    (place / "model/meta.json").unlink()
    assert evaluation()[1]["hash"] == figures["hash"]
    evaluation(**{"evaluate.classifier.width": 4})
    [other] = evaluation.directory.glob("classifier-*")
    assert other != place


def test_images_without_classes_have_no_classifier(evaluation, made, monkeypatch):
    """Nothing is trained, and the figures say what the features are."""
    about = image_records.about(made / "images")
    monkeypatch.setattr(image_records, "about", lambda directory: about | {"classes": 0})
    judge, figures = evaluation()
    assert judge.cfg is None and "projections" in figures["features"] and not list(evaluation.directory.glob("*"))
